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
Told = tuple[Path, list[dict[str, Any]]]


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


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The folder, and what every rank tells of every state, by its name."""
    folder = tmp_path_factory.mktemp("ddp")
    return folder, torchrun(folder, "ddp", "unknown", "bare", "healthy", "sick", "apart")


@pytest.fixture(scope="module")
def fsdp(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("fsdp")
    return folder, torchrun(folder, "fsdp", "bare", "healthy", "sick", "handed", "narrow")


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_healthy_ranks_are_equal_to_the_bit_silent_and_rightly_measured(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder, ranks = request.getfixturevalue(kind)
    assert len(ranks) == 2
    for told in ranks:
        assert told["healthy"]["parameters"] == told["bare"]["parameters"]
        assert told["healthy"]["findings"] == []
    if kind == "fsdp":
        told = ranks[1]["healthy"]
        assert told["norms"] == pytest.approx(told["true"], rel=1e-5)
    assert Run(folder / "healthy" / "rank1").steps.tolist() == [0, 1, 2, 3, 4]


def test_the_rank_line_and_sample_of_a_nan_are_told_by_every_rank(ddp: Told) -> None:
    folder, ranks = ddp
    for told in ranks:
        assert told["sick"]["findings"] == [["NAN004", f"{SCRIPT}:{PLANTED}", [3], 2]]
        assert "of step 2, on rank 1.\n" in told["sick"]["raised"]
    assert ranks[0]["sick"]["parameters"] == ranks[1]["sick"]["parameters"]
    assert (folder / "sick" / "report.html").exists()
    assert (folder / "sick" / "rank1" / "capsule").exists()


@pytest.mark.parametrize("state", ["sick", "handed", "narrow"])
def test_a_sharded_model_is_made_whole_and_the_line_and_sample_named(
    state: str, fsdp: Told
) -> None:
    assert len(fsdp[1]) == 2
    for told in fsdp[1]:
        assert told[state]["findings"] == [["NAN004", f"{SCRIPT}:{PLANTED}", [3], 2]]
        assert told[state]["messages"][0].endswith("of step 2, on rank 1.")
    assert fsdp[1][0][state]["parameters"] == fsdp[1][1][state]["parameters"]


def test_a_rank_that_dies_leaves_a_readable_record(tmp_path: Path) -> None:
    torchrun(tmp_path, "ddp", "die")
    record = Run(tmp_path / "die" / "rank1")
    assert record.steps.tolist() == [0, 1]
    assert not json.loads((record.folder / "run.json").read_text())["complete"]


def test_ranks_with_different_parameters_are_refused(ddp: Told) -> None:
    for told in ddp[1]:
        said = told["apart"]["refused"]
        assert said.startswith("the model of rank 1 has other parameters than that of")


def test_ranks_without_a_process_group_are_refused(ddp: Told) -> None:
    for told in ddp[1]:
        said = told["unknown"]["refused"]
        assert said.startswith("`torchrun` started 2 processes, but torch.distributed")
