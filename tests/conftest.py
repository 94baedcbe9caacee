"""What every test may ask for."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)  # two workers share two cores

ROOT = Path(__file__).parent.parent
Whynan = Callable[..., "subprocess.CompletedProcess[str]"]
Work = Callable[[int], Any]
Ranks = Callable[[int, Work], list[Any]]


def pytest_collectstart() -> None:
    """A file's own tensors are the same whichever files were read before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test draws the same alone and after any other."""
    torch.manual_seed(0)


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
def ranks(tmp_path: Path) -> Ranks:
    """Runs work in several real processes that train together; returns what each one tells."""
    context = multiprocessing.get_context("fork")

    def run(count: int, work: Work) -> list[Any]:
        def one(rank: int) -> None:
            torch.set_num_threads(1)
            os.chdir(tmp_path)
            store = dist.FileStore(str(tmp_path / "store"), count)
            limit = timedelta(seconds=60)
            dist.init_process_group("gloo", None, limit, count, rank, store)
            (tmp_path / f"told{rank}.json").write_text(json.dumps(work(rank)))
            dist.destroy_process_group()

        for name in ("torch._dynamo", "reports"):  # once, and not in each of them
            importlib.import_module(name)
        (tmp_path / "store").unlink(missing_ok=True)
        started = [context.Process(target=one, args=(rank,)) for rank in range(count)]
        for each in started:
            each.start()
        for each in started:
            each.join(120)
        return [json.loads((tmp_path / f"told{rank}.json").read_text()) for rank in range(count)]

    return run


@pytest.fixture
def sparc() -> Path:
    """The folder with SParC's data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("WHYNAN_SPARC", ROOT.parent / "shared" / "data" / "sparc"))
    if not folder.is_dir():
        pytest.skip(f"SParC is not at {folder}; set WHYNAN_SPARC to its folder")
    return folder
