"""Gradients of many calls that go into one step leave too few steps to memorise anything."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from overfit.asked import Asked
from overfit.brake import added_up
from overfit.curves import Curves
from overfit.diagnose import examine
from overfit.drive import Drive
from probes import Ratio, Subject
from probes.finding import Finding
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def right(model: nn.Module, batch: Batch) -> Ratio:
    return Ratio((model(batch["x"]).argmax(1) == batch["y"]).sum(), len(batch["y"]))


def verdicts(times: int, out: Path) -> tuple[Finding, ...]:
    seed_everything(0)
    calls = count(1)

    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        found = loss(model, batch)
        (found / times).backward()
        if next(calls) % times == 0:
            optimizer.step()
            optimizer.zero_grad()
        return found.detach()

    x, y = torch.randn(8, 6), torch.arange(8) % 4
    subject = Subject(
        nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4)),
        [{"x": x, "y": y}],
        loss,
        lambda m: torch.optim.Adam(m.parameters(), lr=5e-3),
        train_step=step,
        metrics={"class": right},
    )
    asked = Asked(quick=True, sizes=(8,), steps=200, hunted=False)
    found = examine(subject, asked, out / "run").judgement.findings
    return tuple(each for each in found if each.code.startswith("FIT"))


def test_few_steps_of_many_calls_are_too_slow(tmp_path: Path) -> None:
    lead = verdicts(50, tmp_path)[0]
    assert (lead.code, lead.site) == ("FIT009", "<optimizer>")
    assert "the optimizer is stepped once in 50 calls of the training step, 4 times in 200" in (
        lead.message
    )
    assert lead.fix == "Add up the gradients of fewer batches before a step."


def test_two_calls_to_a_step_are_no_brake(tmp_path: Path) -> None:
    assert [each.code for each in verdicts(2, tmp_path)] == ["FIT001"]


@pytest.mark.parametrize(
    ("calls", "taken", "told"),
    [(400, 6, True), (400, 100, False), (60, 40, False), (400, 0, False)],
)
def test_it_is_a_brake_where_few_steps_are_left(calls: int, taken: int, told: bool) -> None:
    curves = Curves(
        "overfit-5-seed0", 5, 0, 400, "samples", (0,), (1.0,), drive=Drive(calls, taken)
    )
    assert (added_up(curves) is not None) is told
