"""Two real processes under `torchrun`: one of them is sick, dies, or holds another model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from probes.run import Run

HERE = Path(__file__).parent
SCRIPT = HERE / "processes.py"
PLANTED = 1 + [line.endswith("# planted") for line in SCRIPT.read_text().splitlines()].index(True)

pytestmark = pytest.mark.slow


def torchrun(folder: Path, *words: str) -> list[dict[str, Any]]:
    """What each rank of two tells; nothing of one that died."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-addr", "127.0.0.1", "--master-port", str(port), str(SCRIPT), *words),
        ],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=240,
        check=False,
    )
    told = [folder / f"told{rank}.json" for rank in (0, 1)]
    return [json.loads(path.read_text()) for path in told if path.exists()]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_healthy_ranks_are_equal_to_the_bit_silent_and_rightly_measured(
    kind: str, tmp_path: Path
) -> None:
    (tmp_path / "bare").mkdir()
    bare, _ = torchrun(tmp_path / "bare", kind, "healthy", "bare")
    watched = torchrun(tmp_path, kind, "healthy")
    for rank in watched:
        assert rank["parameters"] == bare["parameters"]
        assert rank["findings"] == []
    if kind == "fsdp":
        assert watched[1]["norms"] == pytest.approx(watched[1]["true"], rel=1e-5)
    assert Run(tmp_path / "run" / "rank1").steps.tolist() == [0, 1, 2, 3, 4]


def test_the_rank_line_and_sample_of_a_nan_are_told_by_every_rank(tmp_path: Path) -> None:
    ranks = torchrun(tmp_path, "ddp", "sick")
    for told in ranks:
        assert told["findings"] == [["NAN004", f"{SCRIPT}:{PLANTED}", [3], 2]]
        assert "of step 2, on rank 1.\n" in told["raised"]
    assert ranks[0]["parameters"] == ranks[1]["parameters"]
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "rank1" / "capsule").exists()


def test_a_skip_is_taken_by_all_ranks(tmp_path: Path) -> None:
    ranks = torchrun(tmp_path, "ddp", "sick", "skip")
    assert ["raised" in told for told in ranks] == [False, False]
    assert ranks[0]["parameters"] == ranks[1]["parameters"]
    assert [len(told["findings"]) for told in ranks] == [1, 1]


def test_sharded_ranks_name_the_rank_and_the_module(tmp_path: Path) -> None:
    for told in torchrun(tmp_path, "fsdp", "sick"):
        assert told["findings"] == [["NAN000", None, None, 2]]
        assert told["messages"][0].startswith("`head` is the first whose output holds NaN")
        assert told["messages"][0].endswith("on rank 1.")


def test_a_rank_that_dies_leaves_a_readable_record(tmp_path: Path) -> None:
    torchrun(tmp_path, "ddp", "die")
    record = Run(tmp_path / "run" / "rank1")
    assert record.steps.tolist() == [0, 1]
    assert not json.loads((record.folder / "run.json").read_text())["complete"]


def test_ranks_with_different_parameters_are_refused(tmp_path: Path) -> None:
    for told in torchrun(tmp_path, "ddp", "apart"):
        assert told["refused"].startswith("the model of rank 1 has other parameters than that of")


def test_ranks_without_a_process_group_are_refused(tmp_path: Path) -> None:
    for told in torchrun(tmp_path, "ddp", "unknown"):
        assert told["refused"].startswith("`torchrun` started 2 processes, but torch.distributed")
