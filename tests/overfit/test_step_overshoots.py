"""A loss that had come down, was thrown back to where nothing is read, and stayed above."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from overfit.curves import Accuracy, Curves
from overfit.look import Look
from overfit.rules.not_memorised import NotMemorised
from overfit.rules.step_overshoots import StepTooLarge
from overfit.story import story
from probes import Finding
from probes.record import Recorder

DOWN = [1.6 * 0.95**i for i in range(32)]  # to 0.33
BACK = [1.6 - 0.025 * i for i in range(40)]  # to 0.6
STILL = [0.6] * 60


def curves(losses: list[float], right: tuple[float, ...], noise: float = 0.0) -> Curves:
    steps = tuple(range(len(right)))
    return Curves(
        name="overfit-5-seed0",
        size=5,
        seed=0,
        budget=400,
        unit="samples",
        steps=tuple(range(len(losses))),
        losses=tuple(losses),
        heads={"class": Accuracy(steps, right, (5.0,) * len(right))},
        ended="steps",
        look=Look(noise=noise, reading=0.5, began_reading=0.5, moved=2.0, size=2.0),
    )


THROWN = curves([*DOWN, 1.1, 2.9, *BACK, *STILL], (1, 4, 2, 3))


def found(course: Curves) -> list[Finding]:
    return [*StepTooLarge().judge(course), *NotMemorised().judge(course)]


def test_a_loss_that_is_thrown_back_and_stays_above_says_that_the_step_is_too_large() -> None:
    (one,) = found(THROWN)
    assert (one.code, one.site) == ("FIT010", "<optimizer>")
    assert "had come down to 0.3263, rose from there to 2.9 within 5 steps, and is 0.6 at" in (
        one.message
    )


@pytest.mark.parametrize(
    "course",
    [
        curves([*DOWN, 1.1, 1.3, *[0.6] * 100], (1, 4, 2, 3)),  # not to where nothing is read
        curves([*DOWN, 1.1, 2.9, *BACK, *[0.4] * 60], (1, 4, 2, 3)),  # nearly back again
        curves([*DOWN, 1.1, 2.9, *BACK, *STILL], (1, 3, 2, 3)),  # as many are right
        curves([*DOWN, 1.1, 2.9, *BACK, *STILL], (1, 4, 2, 3), noise=0.1),  # or by chance
    ],
)
def test_other_rises_of_the_loss_do_not(course: Curves) -> None:
    assert "FIT010" not in [each.code for each in found(course)]


def test_a_loss_that_leapt_and_came_back_says_so_beside_the_verdict_that_knows_no_more() -> None:
    (one,) = found(curves([*DOWN, 2.9, *BACK, *[0.3] * 60], (1, 3, 3, 4)))
    assert one.code == "FIT002"
    assert "; at step 32 it leapt from 0.3263 to 2.9." in one.message
    assert one.fix.startswith("Try a smaller step first, since the loss leaps")
    for calm in (curves([*DOWN, *[0.5] * 60], (1, 3, 3, 4)), curves([*DOWN, 1.1, *BACK], (1, 4))):
        assert not any("leapt" in each.message for each in found(calm))


def test_a_step_too_large_leads_another_size_of_which_no_more_is_known(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    plain = replace(THROWN, losses=(*DOWN, *[0.5] * 100))
    for size, course in ((5, plain), (20, THROWN)):
        plan = {"part": "suite", "size": size, "seed": 0, "steps": 400, "batches": 1}
        assert course.look is not None
        part = recorder.part(
            f"overfit-{size}-seed0",
            settings={**plan, "unit": "samples", "ended": "steps", "look": course.look.as_json()},
        )
        for step, loss in enumerate(course.losses):
            part.values(step, "loss", "value", {"<loss>": loss})
        for step, hits in enumerate(course.heads["class"].hits):
            part.values(step, "metric", "hits", {"class": hits})
            part.values(step, "metric", "count", {"class": 5.0})
        part.close()
    codes = [each.code for each in story(recorder.folder).findings]
    assert codes == ["FIT010", "FIT002"]


@pytest.mark.parametrize(("noise", "code"), [(0.0, "FIT010"), (0.01, "FIT002")])
def test_a_loss_that_leaps_for_one_pass_at_a_time_drew_something(noise: float, code: str) -> None:
    low = [0.5 + 0.01 * (i % 2) for i in range(100)]
    spiked = [each + 1.0 * (i % 7 == 3) for i, each in enumerate(low)]  # and is back at once
    held = [each + 1.0 * (i % 9 in (3, 4)) for i, each in enumerate(low)]
    assert found(curves([1.6, *spiked], (1, 3), noise))[0].code == code
    assert found(curves([1.6, *held], (1, 3), noise))[0].code == "FIT010"
