"""Which reason leads: that of another size, of the first steps, of a state that is cut off."""

from __future__ import annotations

from overfit.curves import Accuracy, Curves
from overfit.look import Look
from overfit.rules.diverged import Diverged


def curves(losses: list[float], right: tuple[float, ...], look: Look | None = None) -> Curves:
    return Curves(
        name="overfit-5-seed0",
        size=5,
        seed=0,
        budget=400,
        unit="samples",
        steps=tuple(range(len(losses))),
        losses=tuple(losses),
        heads={"class": Accuracy(tuple(range(len(right))), right, (5.0,) * len(right))},
        ended="steps",
        look=look,
    )


def test_first_steps_that_throw_the_loss_off_say_that_they_are_too_large() -> None:
    sunk = curves([3.5, 2.4e8, 1e8, *[-1e7 * i for i in range(90)]], (0, 0, 0))
    (one,) = Diverged().judge(sunk)
    assert (one.site, one.step) == ("<optimizer>", 1)
    assert "diverged: the step is too large, for 1 of them threw the loss from 3.5 to 2.4e+08" in (
        one.message
    )
    assert "from there it falls without bound" in one.message
    (slow,) = Diverged().judge(curves([3.5 - 1e7 * i for i in range(90)], (0, 0, 0)))
    assert "the step is too large" not in slow.message
    (high,) = Diverged().judge(curves([3.5, 900.0, *[50.0] * 90], (0, 0, 0)))
    assert "threw the loss from 3.5 to 900; the loss went from 3.5 to 50" in high.message
