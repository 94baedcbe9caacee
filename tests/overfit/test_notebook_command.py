"""`whynan notebook` in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from probes.command import main
from probes.run import Run

Whynan = Callable[..., "subprocess.CompletedProcess[str]"]

NOTEBOOK = """
import time
from pathlib import Path

import torch
from torch import nn

from overfit.notebook import Entry
from probes import Ratio, Subject


def right(model, batch):
    return Ratio((model(batch["x"]).argmax(-1) == batch["y"]).sum(), len(batch["y"]))


def loss(model, batch):
    if Path("slow").exists():
        time.sleep(0.05)
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def learns():
    x, y = torch.randn(16, 8), torch.randint(0, 3, (16,))
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
    adam = lambda model: torch.optim.Adam(model.parameters(), lr=0.02)
    return Subject(model, [{"x": x, "y": y}], loss, adam, metrics={"class": right})


def broken():
    raise ValueError("no data")


def slow():
    Path("slow").touch() if Path("interrupt").exists() else None
    return learns()


suites = {5: 100}
notebook = [
    Entry("first", learns, {"lr": 0.02}, "it learns", suites=suites),
    Entry("broken", broken),
    Entry("slow", slow, suites={5: 400}),
]
"""


def command(*arguments: str) -> list[str]:
    return [
        str(Path(sys.executable).with_name("whynan")),
        "notebook",
        "log.py:notebook",
        *arguments,
    ]


@pytest.mark.slow
def test_what_was_interrupted_is_gone_on_with_and_what_is_complete_is_kept(
    tmp_path: Path,
    whynan: Whynan,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "log.py").write_text(NOTEBOOK)
    (tmp_path / "interrupt").touch()
    asked = ("--quick", "--jobs", "1", "--out", "run")
    process = subprocess.Popen(
        command(*asked),
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 250
    while time.monotonic() < end and not list(tmp_path.glob("run/parts/slow/parts/*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=250)
    assert process.returncode == 130, errors
    assert "ended by Ctrl-C: `--out run --resume` goes on with it" in out
    assert out.splitlines()[-1] == "run: run"
    parts = tmp_path / "run" / "parts"
    assert Run(parts / "first").complete
    assert not Run(parts / "slow").complete
    assert "was interrupted" in (tmp_path / "run" / "report.html").read_text()
    kept = (parts / "first" / "run.json").stat().st_mtime_ns

    (tmp_path / "interrupt").unlink()
    (tmp_path / "slow").unlink()
    done = whynan("notebook", "log.py:notebook", *asked, "--resume", "--only", "slow", "first")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert [(each["name"], each["state"]) for each in results] == [
        *(("first", "complete"), ("broken", "not run"), ("slow", "complete"))
    ]
    assert (parts / "first" / "run.json").stat().st_mtime_ns == kept
    monkeypatch.chdir(tmp_path)
    assert "whose `quick` was True, not False" in refusal(capsys, "--out", "run", "--resume")
    assert (parts / "first" / "run.json").stat().st_mtime_ns == kept


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["notebook", "log.py:notebook", *arguments])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_an_unknown_name_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.py").write_text(NOTEBOOK)
    monkeypatch.chdir(tmp_path)
    said = refusal(capsys, "--only", "frist", "--out", "run")
    assert "`frist` is none of the notebook's 3 experiments: closest are first" in said
    assert not (tmp_path / "run").exists()
