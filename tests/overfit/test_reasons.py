"""Which reason leads: that of another size, of the first steps, of a state that is cut off."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.curves import Accuracy, Curves
from overfit.look import Look, Looker, kept_start
from overfit.rules.diverged import Diverged
from probes import Subject


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


def test_a_batch_of_one_sample_does_not_keep_the_others_from_being_exchanged() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    batches = [{"x": torch.randn(n, 4), "y": torch.arange(n) % 3} for n in (1, 4)]

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"])

    subject = Subject(model, batches, loss, lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    look = Looker(subject, batches, kept_start(model)).look()
    assert look.reading is not None
    assert look.reading > 1e-3
