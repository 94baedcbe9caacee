"""`--engine ray` on a cluster that is started here: the same results; what ends early is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overfit import diagnose
from overfit.run_notebook import run_notebook
from probes.run import Run

ray = pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

SUBJECT = """
import os, signal, time
from pathlib import Path
import torch
from torch import nn
from overfit.notebook import Entry, Notebook
from probes import Ratio, Subject

def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])

def right(model, batch):
    return Ratio((model(batch["x"]).argmax(-1) == batch["y"]).sum(), len(batch["y"]))

def subject(loss=loss):
    x, y = torch.randn(24, 8), torch.randint(0, 3, (24,))
    return Subject(
        nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        metrics={"class": right},
    )

calls = []

def deadly():
    def dies(model, batch):
        calls.append(1)
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_text()
        if len(calls) == 30 and parent.startswith("ray::"):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        return loss(model, batch)
    return subject(dies)

def slow():
    def waits(model, batch):
        if Path(f"/proc/{os.getppid()}/cmdline").read_text().startswith("ray::"):
            time.sleep(0.05)
        return loss(model, batch)
    return subject(waits)

NOTES = Notebook(tuple(Entry(name, subject, suites={5: 40}) for name in ("one", "other")))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def told(run: Run) -> Any:
    """The findings, whatever the run is called."""
    found = json.loads((run.folder / "findings.json").read_text())
    return {name: value for name, value in found.items() if name != "run"}


def test_results_are_those_of_the_local_engine_and_a_lost_worker_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SUBJECT)
    runs = {
        engine: diagnose(
            "train.py:subject", sizes=(5,), quick=True, engine=engine, out=tmp_path / engine
        )
        for engine in ("local", "ray")
    }
    assert told(runs["ray"]) == told(runs["local"])
    assert [name for name, _ in runs["ray"].parts] == [name for name, _ in runs["local"].parts]
    lost = diagnose("train.py:deadly", sizes=(5,), quick=True, engine="ray", out=tmp_path / "lost")
    assert "its Ray worker was lost" in json.dumps(lost.judgement.as_json(""))
    ran = run_notebook("train.py:NOTES", engine="ray", out=tmp_path / "notes")
    assert [(each.entry.name, each.state) for each in ran.results] == [
        ("one", "complete"),
        ("other", "complete"),
    ]


def test_ctrl_c_ends_the_tasks_and_keeps_what_is_done(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SUBJECT)
    whynan = Path(sys.executable).with_name("whynan")
    words = ("diagnose", "train.py:slow", "--quick", "--engine", "ray", "--out", "run")
    process = subprocess.Popen([whynan, *words], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 200
    while not any(
        path.stat().st_size >= 80 for path in tmp_path.glob("run/parts/over*/readings/steps.i64")
    ):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=100)
    assert "ended by Ctrl-C" in said
    assert said.splitlines()[-1] == "run: run"
    assert not Run(tmp_path / "run").complete
