"""The README's code runs, and what it says it prints is what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(README.read_text(encoding="utf-8"))
FILES = {code.split("\n")[0].removeprefix("# "): code for kind, code in BLOCKS if kind == "python"}
SESSIONS = [text.removeprefix("$ ").split("\n", 1) for kind, text in BLOCKS if kind == "console"]


def plain(text: str) -> str:
    """Without what differs from run to run and from machine to machine: folders and digits."""
    text = re.sub(r"runs/\S+?(?=/|\s|$)", "runs/RUN", text)
    return re.sub(r"\d+(\.\d+)?(e-\d+)?", "N", text).strip()


def test_the_readme_has_its_uses() -> None:
    assert list(FILES) == ["nan.py", "train.py", "pooled.py", "bert.py"]
    assert len(SESSIONS) == 4


@pytest.mark.parametrize(("command", "printed"), SESSIONS, ids=list(FILES))
def test_a_session_prints_what_the_readme_shows(tmp_path: Path, command: str, printed: str) -> None:
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert plain(done.stdout) == plain(printed), done.stderr
