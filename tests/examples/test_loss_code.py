"""A plain loop's own lines are run again by one of two real processes, which speaks to no other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "loss_code.py"
PLANTED = 1 + [line.endswith("# planted") for line in SCRIPT.read_text().splitlines()].index(True)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_the_line_of_a_sick_loss_is_named_unless_it_stands_between_words_to_the_others(
    kind: str, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-addr", "127.0.0.1", "--master-port", str(port)),
            *(str(SCRIPT), kind, "sick", "shared"),
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=240,
        check=True,
    )
    for rank in (0, 1):
        told = json.loads((tmp_path / f"told{rank}.json").read_text())
        at = f"{SCRIPT}:{PLANTED}"
        assert told["sick"]["finding"] == ["NAN002", "SqrtBackward0", at, 2]
        assert told["sick"]["samples"] == [3]
        assert "of step 2, on rank 1.\n" in told["sick"]["raised"]
        assert told["shared"]["finding"] == ["NAN000", None, None, 2]
        assert "outside of what can be replayed, on rank 1.\n" in told["shared"]["raised"]
