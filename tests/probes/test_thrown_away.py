"""Backward passes of a step of the subject's own: which are for nothing, and which only seem so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from probes import Subject
from probes.checking import check, chosen
from probes.experiment import Experiment
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Step = Callable[[nn.Module, Batch, Optimizer], Tensor]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
        self.second = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["x"]), batch["y"])


def halves(batch: Batch) -> list[Batch]:
    return [{k: v[half] for k, v in batch.items()} for half in (slice(6), slice(6, 12))]


class Counting:
    """Adds up over calls, and clears in each of them."""

    def __init__(self, clears_when_done: bool) -> None:
        self.calls, self.clears_when_done = 0, clears_when_done

    def __call__(self, model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        self.calls += 1
        if not self.clears_when_done:
            model.zero_grad()
        value = loss(model, batch)
        (value / 3).backward()
        if self.calls % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return value.detach()


def cleared_by_hand(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    for half in halves(batch):
        for p in model.parameters():
            p.grad = None
        loss(model, half).backward()
    optimizer.step()
    return torch.zeros(())


def clipped_and_cleared(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    for half in halves(batch):
        optimizer.zero_grad(set_to_none=False)
        loss(model, half).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return torch.zeros(())


def twice_as_sharp(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    """Sharpness-aware: the first gradient moves the weights, the second is stepped with."""
    optimizer.zero_grad()
    loss(model, batch).backward()
    with torch.no_grad():
        moved = [0.05 * p.grad for p in model.parameters() if p.grad is not None]
        for p, by in zip(model.parameters(), moved, strict=True):
            p.add_(by)
    optimizer.zero_grad()
    loss(model, batch).backward()
    with torch.no_grad():
        for p, by in zip(model.parameters(), moved, strict=True):
            p.sub_(by)
    optimizer.step()
    return torch.zeros(())


def surgery(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    kept = []
    for half in halves(batch):
        optimizer.zero_grad()
        loss(model, half).backward()
        kept.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for p, *grads in zip(model.parameters(), *kept, strict=True):
        p.grad = torch.stack(grads).mean(0)
    optimizer.step()
    return torch.zeros(())


def in_turn(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    """What each half's pass gives to the other half of the model is thrown away."""
    for part, other in ((model.first, model.second), (model.second, model.first)):
        optimizer.zero_grad()
        loss(model, batch).backward()
        other.zero_grad()  # type: ignore[operator]
        optimizer.step()
        assert part is not other
    optimizer.zero_grad()
    return torch.zeros(())


def attacked(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    x = batch["x"].clone().requires_grad_()
    loss(model, {**batch, "x": x}).backward()
    assert x.grad is not None
    optimizer.zero_grad()
    loss(model, {**batch, "x": batch["x"] + 0.1 * x.grad.sign()}).backward()
    optimizer.step()
    return torch.zeros(())


def penalised(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    x = batch["x"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    optimizer.zero_grad()
    (loss(model, batch) + slope.square().mean()).backward()
    optimizer.step()
    return torch.zeros(())


def by_a_closure(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    def closure() -> float:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        return float(value)

    optimizer.step(closure)
    return torch.zeros(())


@pytest.mark.parametrize(
    ("step", "lost"),
    [
        (cleared_by_hand, 1),
        (clipped_and_cleared, 1),
        (Counting(clears_when_done=False), 2),
        (Counting(clears_when_done=True), None),
        *[(each, None) for each in (twice_as_sharp, surgery, in_turn, attacked, penalised)],
        (by_a_closure, None),
    ],
)
def test_passes_that_nobody_has_had_are_counted(step: Step, lost: int | None) -> None:
    told = found(step, lambda model: SGD(model.parameters(), lr=0.1))
    assert told == ([] if lost is None else [lost])


def test_an_optimizer_that_evaluates_several_times_has_each_gradient() -> None:
    assert found(by_a_closure, lambda model: torch.optim.LBFGS(model.parameters())) == []


def found(step: Step, optimizer: Callable[[nn.Module], Optimizer]) -> list[object]:
    seed_everything(0)
    batch = {"x": torch.randn(12, 5), "y": torch.randn(12, 2)}
    judged = check(Subject(Pair(), [batch], loss, optimizer, train_step=step), chosen(["WIR024"]))
    assert judged.not_judged == ()
    return [one.evidence[0].value for one in judged.findings]


def in_parts_of_eight(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    """Clears before each part; few samples are one part alone."""
    for x, y in zip(batch["x"].split(8), batch["y"].split(8), strict=True):
        optimizer.zero_grad()
        (loss(model, {"x": x, "y": y}) / 4).backward()
    optimizer.step()
    return torch.zeros(())


def adds_up_parts_of_eight(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    optimizer.zero_grad()
    for x, y in zip(batch["x"].split(8), batch["y"].split(8), strict=True):
        (loss(model, {"x": x, "y": y}) / 4).backward()
    optimizer.step()
    return torch.zeros(())


@pytest.mark.parametrize("step", [in_parts_of_eight, adds_up_parts_of_eight])
def test_a_step_that_cuts_its_batch_is_looked_at_with_all_its_samples(step: Step) -> None:
    seed_everything(0)
    batch = {"x": torch.randn(32, 5), "y": torch.randn(32, 2)}
    subject = Subject(Pair(), [batch], loss, lambda m: SGD(m.parameters(), 0.1), train_step=step)
    experiment = Experiment.of(subject)
    assert experiment.size < 8
    assert experiment.stepped.passes == 4
    findings = check(subject, chosen(only=["WIR024"])).findings
    assert [each.code for each in findings] == ["WIR024"] * (step is in_parts_of_eight)
