"""Suites that are nearly memorised as their steps end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from overfit.bottom import Bottom
from overfit.curves import Accuracy, Curves, read_curves
from overfit.look import Look
from overfit.plan import Plan
from overfit.rules.larger_not_memorised import LargerNotMemorised
from overfit.rules.not_memorised import NotMemorised
from overfit.rules.too_slow import TooSlow
from overfit.settled import Settled
from overfit.suite import run_suite
from overfit.trials import Trials
from probes import Subject
from probes.finding import Verdict
from probes.run import Run
from probes.strict_json import encode
from probes.subject import Batch


def _near(model: nn.Module, batch: Batch) -> tuple[float, int]:
    far = (model(batch[0]) - batch[1]).abs()
    return float((far < 0.1).sum()), far.numel()


def _subject(schedule: bool = False) -> Subject:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
    made = torch.optim.lr_scheduler.ConstantLR
    return Subject(
        model,
        [(torch.randn(20, 6), torch.randn(20, 1))],
        lambda m, b: F.mse_loss(m(b[0]), b[1]),
        lambda m: torch.optim.Adam(m.parameters(), lr=3e-3),
        schedule=(lambda o: made(o, 1.0)) if schedule else None,
        metrics={"near": _near},
    )


def _ran(subject: Subject, plan: Plan, folder: Path) -> Curves:
    run_suite(subject, plan, folder, lambda done, said: None)
    return read_curves(Run(folder))


def test_a_suite_goes_on_for_as_many_steps_again(tmp_path: Path) -> None:
    plan = Plan(20, (20,), steps=220, every=10, in_a_row=2, again=True)
    long = _ran(_subject(), plan, tmp_path / "long")
    assert long.ended == "memorised"
    assert 220 < len(long.losses) < 440
    short = _ran(_subject(), replace(plan, again=False), tmp_path / "short")
    assert (short.ended, len(short.losses)) == ("steps", 220)
    assert short.losses == long.losses[:220]
    held = _ran(_subject(schedule=True), plan, tmp_path / "held")
    assert len(held.losses) == 220


def _nearly(right: int, losses: tuple[float, ...]) -> Curves:
    few = Curves(
        "overfit-5-seed0", 5, 0, 400, "samples", tuple(range(400)), (3.0, *[0.0] * 399),
        heads={"ok": Accuracy((0, 400), (0, 5), (5, 5))}, ended="memorised",
    )  # fmt: skip
    return Curves(
        "overfit-20-seed0", 20, 0, 400, "samples", tuple(range(len(losses))), losses,
        heads={"ok": Accuracy((0, 200, 400), (0, right, right), (20, 20, 20))},
        ended="steps", look=Look(narrow="body", width=4), smaller=(few,),
    )  # fmt: skip


def test_what_lacks_little_is_a_note() -> None:
    still = (6.0, *[-4.8, -4.7] * 200)
    (note,) = LargerNotMemorised().judge(_nearly(18, still))
    assert note.verdict is Verdict.NOTE
    assert "nearly" in note.message
    assert not NotMemorised().holds(_nearly(18, still))
    (fail,) = LargerNotMemorised().judge(_nearly(12, still))
    assert fail.verdict is Verdict.FAIL


def test_what_still_falls_and_lacks_little_is_short_of_steps() -> None:
    falls = tuple(3.0 * 0.994**i for i in range(400))
    assert TooSlow().is_short(_nearly(18, falls))
    assert not TooSlow().is_short(_nearly(17, falls))


def test_a_trial_that_came_to_no_number_is_none() -> None:
    told = Trials(settled=Settled(60, math.nan, 0.5), direct=True)
    look = encode(Look(trials=told, bottom=Bottom(math.inf, 1.0), noise=0.1).as_json())
    assert Look.from_json(look) == Look(trials=Trials(direct=True), noise=0.1)
