"""What every test may ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)  # two workers share two cores

ROOT = Path(__file__).parent.parent
Whynan = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def whynan(tmp_path: Path) -> Whynan:
    """Runs the real command in a real process, in an empty folder."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).with_name("whynan"), *arguments],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"} | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def sparc() -> Path:
    """The folder with SParC's data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("WHYNAN_SPARC", ROOT.parent / "shared" / "data" / "sparc"))
    if not folder.is_dir():
        pytest.skip(f"SParC is not at {folder}; set WHYNAN_SPARC to its folder")
    return folder
