from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["overfit", "reports", "nan_watch"])
def test_a_stranger_in_the_place_of_ours_is_named(whynan, tmp_path: Path, name: str) -> None:
    (tmp_path / "theirs" / name).mkdir(parents=True)
    (tmp_path / "theirs" / name / "__init__.py").write_text("")
    path = str(tmp_path / "theirs")
    done = whynan("explain", "FIT001", PYTHONPATH=path)
    assert done.returncode == 2
    assert f"`import {name}` finds {tmp_path}/theirs/{name}, not whynan's own" in done.stderr
    assert "Rename it, or run `python -P`" in done.stderr
    assert "Traceback" not in done.stderr
    imported = subprocess.run(
        [sys.executable, "-c", "import probes"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ImportError: `import " + name in imported.stderr


def test_a_users_model_file_and_data_folder_do_no_harm(whynan, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("raise RuntimeError('theirs')\n")
    (tmp_path / "reports").mkdir()
    done = whynan("explain", "NOPE")
    assert "is no rule's code or name" in done.stderr
