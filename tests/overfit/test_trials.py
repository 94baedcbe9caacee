"""What is tried at the end: a smaller step, a step without gradient, a copy's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overfit.curves import Accuracy, Curves
from overfit.drive import Drive, eps_of
from overfit.look import Look
from overfit.rules.too_slow import TooSlow
from probes import Ratio, Subject

Batch = dict[str, Tensor]
Make = Callable[[Iterable[nn.Parameter]], Optimizer]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return 3 * nn.functional.mse_loss(model(batch["x"]), batch["y"])


def near(model: nn.Module, batch: Batch) -> Ratio:
    off = (model(batch["x"]) - batch["y"]).abs().amax(-1)
    return Ratio((off < 0.05).sum(), len(off))


def subject(make: Make, model: nn.Module | None = None, wide: int = 2) -> Subject:
    torch.manual_seed(0)
    net = model or nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, wide))
    batches = [{"x": torch.randn(4, 6), "y": torch.randn(4, wide)} for _ in range(2)]
    return Subject(net, batches, loss, lambda m: make(m.parameters()), metrics={"near": near})


def curves(look: Look, drive: Drive | None = None, losses: tuple[float, ...] = ()) -> Curves:
    course = losses or (1.0, *[0.03, 0.04] * 40)
    return Curves(
        name="overfit-5-seed0",
        size=5,
        seed=0,
        budget=len(course),
        unit="samples",
        steps=tuple(range(len(course))),
        losses=course,
        heads={"near": Accuracy((0, 1), (0.0, 2.0), (5.0, 5.0))},
        ended="steps",
        look=look,
        drive=drive,
    )


@pytest.mark.parametrize(
    ("make", "swamped"),
    [
        (lambda ps: torch.optim.Adam(ps, lr=1e-3, eps=10.0), True),
        (lambda ps: torch.optim.NAdam(ps, lr=1e-3, eps=10.0), True),
        (lambda ps: torch.optim.RMSprop(ps, lr=1e-3, eps=10.0), True),
        (lambda ps: torch.optim.Adagrad(ps, lr=1e-3, eps=1e3), True),
        (lambda ps: torch.optim.AdamW(ps, lr=1e-3), False),
        (lambda ps: torch.optim.Adam(ps, lr=1e-3, eps=1e-6), False),
        (lambda ps: torch.optim.Adadelta(ps, eps=1.0), None),
        (lambda ps: torch.optim.SGD(ps, lr=1e-3), None),
    ],
)
def test_an_eps_above_the_size_of_the_gradients_swamps_the_step(
    make: Make, swamped: bool | None
) -> None:
    one = subject(make)
    optimizer = make(one.model.parameters())
    for batch in one.batches:
        optimizer.zero_grad()
        one.loss(one.model, batch).backward()
        optimizer.step()
    left = eps_of(optimizer).get("swamped")
    assert (None if swamped is None else left is not None and left <= 0.1) == swamped


def test_a_loss_that_an_eps_keeps_falling_slowly_says_so() -> None:
    slow = tuple(1.4 - 0.001 * i for i in range(100))
    drive = Drive(100, 100, rate=1e-3, eps=1.0, swamped=1e-3)
    look = Look(noise=0.0, reading=0.5, moved=0.01, size=1.0)
    (one,) = TooSlow().judge(curves(look, drive, slow))
    assert "since an eps of 1 is added to what the optimizer divides by" in one.message
    assert one.fix.startswith("Leave `eps` at its default")
