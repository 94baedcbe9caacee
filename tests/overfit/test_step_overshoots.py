"""A loss that had come down, was thrown back to where nothing is read, and stayed above."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from overfit.curves import Accuracy, Curves
from overfit.drive import Drive
from overfit.look import Look
from overfit.rules.decay_holds import DecayHolds
from overfit.rules.not_memorised import NotMemorised
from overfit.rules.step_overshoots import StepTooLarge
from overfit.settled import Settled
from overfit.story import story
from overfit.trials import Trials
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


FLUNG = curves([1.6, 900.0, 40.0, 1.6, *[0.7] * 100], (1, 3, 3, 3))


def test_first_steps_that_throw_loss_and_weights_far_off_are_too_large_and_no_decay() -> None:
    far = Look(reading=0.5, began_reading=0.5, moved=25.0, size=25.0)
    held = Drive(400, 400, decay=1e-4, decayed=0.015, gradient=0.001, energy=1.2)
    flung = replace(FLUNG, look=far, drive=held)
    (one,) = found(flung)
    assert (one.code, one.site) == ("FIT010", "<optimizer>")
    assert "the first steps threw the loss from 1.6 to 900, and the weights went 25 times" in (
        one.message
    )
    assert not list(DecayHolds().judge(flung))
    near = replace(flung, look=replace(far, moved=0.4, size=1.1))
    assert not StepTooLarge().flung(near)
    assert [each.code for each in DecayHolds().judge(near)] == ["FIT019"]


@pytest.mark.parametrize(("size", "holds"), [(11.0, False), (0.3, True)])
def test_the_decay_of_a_blind_model_holds_it_only_where_it_shrank(size: float, holds: bool) -> None:
    calm = curves([*DOWN, *[0.9] * 60], (1, 2, 2, 2))
    blind = Look(reading=0.0, began_reading=0.2, moved=1.0, size=size)
    held = Drive(400, 400, decay=1e-4, decayed=0.02, gradient=0.0005, energy=2.0)
    assert bool(list(DecayHolds().judge(replace(calm, look=blind, drive=held)))) == holds


@pytest.mark.parametrize(
    ("began", "high", "moved", "killed"),
    [(0.2, 1.6, 1.3, True), (2e-5, 1.6, 1.3, False), (2e-5, 9.0, 1.3, True), (2e-5, 1.6, 30, True)],
)
def test_a_model_that_hardly_read_was_killed_where_the_loss_leapt(
    began: float, high: float, moved: float, killed: bool
) -> None:
    calm = curves([1.6, high, *[0.9] * 60], (1, 2, 2, 2))
    blind = Look(noise=0.0, reading=0.0, began_reading=began, moved=moved, size=1.7)
    assert StepTooLarge().killed(replace(calm, look=blind)) == killed


@pytest.mark.parametrize(("noise", "code"), [(0.0, "FIT010"), (0.01, "FIT002")])
def test_a_loss_that_leaps_for_one_pass_at_a_time_drew_something(noise: float, code: str) -> None:
    low = [0.5 + 0.01 * (i % 2) for i in range(100)]
    spiked = [each + 1.0 * (i % 7 == 3) for i, each in enumerate(low)]  # and is back at once
    held = [each + 1.0 * (i % 9 in (3, 4)) for i, each in enumerate(low)]
    assert found(curves([1.6, *spiked], (1, 3), noise))[0].code == code
    assert found(curves([1.6, *held], (1, 3), noise))[0].code == "FIT010"


SPIKE = [0.5, 1.2, 4.0, 9.0, 3.0, 1.1, 0.6]
FALLS = [0.6 * 0.995**i for i in range(40)]
LEAPS = [1.6, 3.0, *[1.2] * 100, *FALLS, *SPIKE, *FALLS, *SPIKE, *FALLS]


def test_a_loss_that_leaves_what_it_had_come_to_again_and_again_is_of_too_large_a_step() -> None:
    (one,) = found(curves(LEAPS, (1, 3, 2, 3)))
    assert (one.code, one.site) == ("FIT010", "<optimizer>")
    assert "thrown above it again and again, 2 times in the last half: from 0.4935 to 9" in (
        one.message
    )


@pytest.mark.parametrize(
    ("losses", "noise", "tried"),
    [
        ([1.6, 3.0, *[1.2] * 100, *FALLS, *SPIKE, *FALLS, *FALLS, *FALLS], 0.0, None),  # once
        (LEAPS, 2.0, None),  # by chance
        ([each - 0.55 for each in LEAPS], 0.0, None),  # one that can fall for ever
        (LEAPS, 0.0, Settled(60, 0.5, 0.5)),  # a tenth of the step is no better
    ],
)
def test_one_leap_or_one_by_chance_is_not(
    losses: list[float], noise: float, tried: Settled | None
) -> None:
    course = curves(losses, (1, 3, 2, 3), noise)
    assert course.look is not None
    look = replace(course.look, trials=Trials(settled=tried))
    assert "FIT010" not in [each.code for each in found(replace(course, look=look))]


def test_a_fall_that_is_no_more_than_the_swings_are_is_none() -> None:
    swings = [0.1, 0.4, 1.2, 0.9, 0.3] * 60
    lower = [each * (0.7 if i >= 225 else 1.0) for i, each in enumerate(swings)]
    (one,) = found(curves([1.6, *lower], (1, 3)))
    assert one.code == "FIT010"
