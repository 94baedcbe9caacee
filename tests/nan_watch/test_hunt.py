"""A subject's own loop, run until something is not finite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch.hunt import LEAST, MOST, default_steps, hunt
from probes import Subject
from probes.command import main
from probes.errors import RequestError
from probes.run import Run

SUBJECT = """
import torch
from torch import nn
from probes import Subject


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, batch):
        hidden, _ = self.rnn(self.embedding(batch["ids"]))
        return self.head(hidden.sum(1) / batch["length"][:, None])


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch), batch["y"])


def made(shortest):
    cuts = [(i, i + 4) for i in range(0, 24, 4)]
    ids, y = torch.randint(1, 10, (24, 5)), torch.randint(0, 4, (24,))
    length = torch.full((24,), 5.0)
    length[21] = shortest
    batches = [dict(ids=ids[i:j], y=y[i:j], length=length[i:j]) for i, j in cuts]
    adam = lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    return Subject(Model(), batches, loss, adam, clip_norm=1.0)


def sick():
    return made(0.0)


def healthy():
    return made(1.0)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(SUBJECT)
    return tmp_path / "train.py"


def linear_subject(poison: int | None = None, **more: Any) -> Subject:
    torch.manual_seed(0)
    batches = [{"x": torch.randn(4, 3), "weight": 1.0} for _ in range(5)]
    if poison is not None:
        batches[poison]["weight"] = float("nan")

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return model(batch["x"]).square().mean() * batch["weight"]

    return Subject(
        nn.Linear(3, 2), batches, loss, lambda m: torch.optim.SGD(m.parameters(), lr=0.1), **more
    )


def test_the_command_names_step_site_direction_and_history(whynan: Any, file: Path) -> None:
    done = whynan("hunt", "train.py:sick", "--out", "run")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[0].startswith("hunt ended after 6 steps, loss")
    assert done.stdout.splitlines()[-1] == "run: run"
    found = json.loads((file.parent / "run" / "findings.json").read_text())
    lead = found["findings"][0]
    assert (lead["code"], lead["site"], lead["phase"]) == ("NAN004", "model", "forward")
    assert (lead["op"], lead["source"]) == ("aten.div", "train.py:16")
    assert (lead["samples"], lead["where"]["sample"]) == ([1], 1)
    assert (lead["step"], lead["batch"]) == (5, 5)
    history = [each["step"] for each in lead["evidence"] if "|output| of head" in each["what"]]
    assert history == [5, 0, 1, 2, 3, 4]
    assert (file.parent / "run" / "report.html").is_file()


def test_the_command_is_silent_on_the_healthy_twin(whynan: Any, file: Path) -> None:
    done = whynan("hunt", "train.py:healthy", "--out", "run", "--steps", "30")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: ok" in done.stdout
    run = Run(file.parent / "run")
    assert run.complete
    assert run.steps.tolist() == list(range(30))
    assert "NAN000" in run.judgement.passed


def status(*words: str) -> int:
    """The command's exit status, in this process."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def test_the_command_goes_on_when_it_is_told_to(file: Path) -> None:
    address = f"{file}:sick"
    assert status("hunt", address, "--out", "run", "--steps", "20", "--on-poison", "skip") == 1
    run = Run(Path("run"))
    assert len(run.steps) == 20
    assert run.judgement.findings[0].evidence[-1].value == 3  # steps 5, 11 and 17


def test_wrong_requests_end_with_status_2(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"{file}:sick"
    assert status("hunt", address, "--steps", "0") == 2
    assert status("hunt", address, "--on-poison", "stop") == 2
    Path("run").mkdir()
    assert status("hunt", address, "--out", "run") == 2
    assert "`run` exists already" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_there(file: Path) -> None:
    whynan = Path(sys.executable).with_name("whynan")
    line = [str(whynan), "hunt", "train.py:healthy", "--out", "run", "--steps", "1000000"]
    process = subprocess.Popen(
        line, cwd=file.parent, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    steps = file.parent / "run" / "readings" / "steps.i64"
    deadline = time.monotonic() + 120
    while not (steps.is_file() and steps.stat().st_size > 8 * 50):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stdout.startswith("hunt ended by Ctrl-C after ")
    assert "so far (interrupted)" in stdout
    run = Run(file.parent / "run")
    assert len(run.steps) >= 20
    assert run.facts["settings"]["ended_by"] == "KeyboardInterrupt"
    assert (file.parent / "run" / "report.html").is_file()


def test_a_killed_hunt_is_readable_and_says_that_it_is_incomplete(file: Path) -> None:
    whynan = Path(sys.executable).with_name("whynan")
    line = [str(whynan), "hunt", "train.py:healthy", "--out", "run", "--steps", "1000000"]
    process = subprocess.Popen(line, cwd=file.parent, env=os.environ)
    steps = file.parent / "run" / "readings" / "steps.i64"
    deadline = time.monotonic() + 120
    while not (steps.is_file() and steps.stat().st_size > 8 * 50):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=120)
    run = Run(file.parent / "run")
    assert not run.complete
    norms = run.matrix("param_grad", "norm")
    assert norms.steps.tolist() == list(range(len(run.steps)))
    assert norms.seen.all()


def test_a_hunt_says_how_far_it_is_and_names_the_batch() -> None:
    said: list[tuple[int, int]] = []
    found = hunt(
        linear_subject(poison=3), 20, say=lambda step, total, loss: said.append((step, total))
    )
    assert said == [(1, 20), (2, 20), (3, 20)]
    assert (found.steps, found.interrupted) == (4, False)
    assert (found.judgement.findings[0].step, found.judgement.findings[0].batch) == (3, 3)


def test_a_train_step_of_the_users_own_is_hunted() -> None:
    def train_step(model: nn.Module, batch: Any, optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        loss = model(batch["x"]).square().mean() * batch["weight"]
        loss.backward()
        optimizer.step()
        return loss

    clean = hunt(linear_subject(train_step=train_step), 7)
    assert (clean.steps, clean.judgement.findings) == (7, ())
    losses = Run(clean.folder).matrix("loss", "value")
    assert losses.steps.tolist() == list(range(7))
    found = hunt(linear_subject(poison=2, train_step=train_step), 7)
    (finding,) = found.judgement.findings
    assert (finding.site, finding.phase, finding.step) == ("<loss>", "forward", 2)
    assert finding.op == "aten.mul"


def test_an_interrupted_hunt_keeps_its_findings() -> None:
    def say(step: int, total: int, loss: float | None) -> None:
        if step == 3:
            raise KeyboardInterrupt

    found = hunt(linear_subject(), 20, say=say)
    assert (found.interrupted, found.steps) == (True, 3)
    assert Run(found.folder).steps.tolist() == [0, 1, 2]


def test_a_step_that_raises_is_a_sentence_and_what_was_written_stays(tmp_path: Path) -> None:
    subject = linear_subject()
    calls = iter(range(100))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return subject.loss(model, batch) / (1 if next(calls) < 3 else {}["gone"])

    with pytest.raises(RequestError) as caught:
        hunt(replace(subject, loss=loss), out=tmp_path / "run")
    assert "a step of the hunt raised KeyError: 'gone' at " in str(caught.value)
    run = Run(tmp_path / "run")
    assert not run.complete
    assert run.facts["settings"]["ended_by"] == "KeyError"
    assert run.steps.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("length", "steps"), [(3, LEAST), (250, 250), (9999, MOST)])
def test_the_number_of_steps_is_one_pass_within_bounds(length: int, steps: int) -> None:
    assert default_steps([None] * length) == steps
    assert default_steps(each for each in [None] * length) == LEAST


def test_batches_that_can_be_read_only_once_end_the_hunt() -> None:
    subject = linear_subject()
    once = Subject(subject.model, iter(list(subject.batches)), subject.loss, subject.optimizer)
    assert hunt(once).steps == 5
