"""Parameters that a step of the subject's own writes after the optimizer has."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
After = Callable[[nn.Module, nn.Module], None]


class Twins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
        self.target = copy.deepcopy(self.online).requires_grad_(False)


def follows(model: nn.Module, batch: Batch) -> Tensor:
    wanted = model.target(batch["x"] + 0.1)  # type: ignore[operator]
    return F.mse_loss(model.online(batch["x"]), wanted + batch["y"])  # type: ignore[operator]


def alone(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model.online(batch["x"]), batch["y"])  # type: ignore[operator]


def each(write: Callable[[Tensor, Tensor], object]) -> After:
    def after(online: nn.Module, target: nn.Module) -> None:
        for one, other in zip(online.parameters(), target.parameters(), strict=True):
            write(one.data, other.data)

    return after


def both(online: nn.Module, target: nn.Module) -> None:
    """Lookahead: the slow weights come half of the way, and the fast ones go back to them."""
    for fast, slow in zip(online.parameters(), target.parameters(), strict=True):
        slow.data.lerp_(fast.data, 0.5)
        fast.data.copy_(slow.data)


def back(online: nn.Module, target: nn.Module) -> None:
    online.load_state_dict(target.state_dict())


@pytest.mark.parametrize(
    ("after", "loss", "share"),
    [
        (each(lambda one, other: one.lerp_(other, 0.05)), follows, 0.05),
        (back, follows, 1.0),
        (each(lambda one, other: other.lerp_(one, 0.05)), follows, None),
        (both, follows, None),
        (each(lambda one, _: one.clamp_(-0.1, 0.1)), follows, None),
        (each(lambda one, _: one.mul_(0.999)), follows, None),
        (each(lambda one, _: one.div_(one.norm())), follows, None),
        (each(lambda *_: None), follows, None),
        (each(lambda one, other: one.lerp_(other, 0.01)), alone, None),  # an anchor, never run
    ],
)
def test_what_is_moved_to_a_twin_that_stays_is_told(
    after: After, loss: Callable[[nn.Module, Batch], Tensor], share: float | None
) -> None:
    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        after(model.online, model.target)  # type: ignore[arg-type]
        return value.detach()

    seed_everything(0)
    batch = {"x": torch.randn(12, 5), "y": torch.randn(12, 4)}
    subject = Subject(
        Twins(), [batch], loss, lambda model: SGD(model.parameters(), lr=0.1), train_step=step
    )
    judged = check(subject, chosen(["WIR025"]))
    assert judged.not_judged == ()
    told = [one.evidence[0].value for one in judged.findings]
    assert told == ([] if share is None else [pytest.approx(share, rel=0.01)])
