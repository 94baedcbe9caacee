"""Steps of two passes over one batch: what they add up, and what they leave in the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Step = Callable[[nn.Module, Batch, Optimizer], Tensor]


class Net(nn.Module):
    """renewed: its middle weights are brought to unit length whenever it is called."""

    def __init__(self, renewed: bool = False) -> None:
        super().__init__()
        self.read, self.mix, self.head = nn.Linear(12, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        self.renewed = renewed

    def forward(self, x: Tensor) -> Tensor:
        if self.renewed:
            with torch.no_grad():
                self.mix.weight.copy_(F.normalize(self.mix.weight, dim=1))
        scores: Tensor = self.head(self.mix(self.read(x).relu()).relu())
        return scores


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def subject(
    step: Step,
    optimizer: Callable[[nn.Module], Optimizer] = lambda m: AdamW(m.parameters(), 2e-3),
    renewed: bool = False,
) -> Subject:
    seed_everything(0)
    batches = [{"x": torch.randn(16, 12), "y": torch.arange(16) % 3} for _ in range(3)]
    return Subject(Net(renewed), batches, loss, optimizer, train_step=step)


def said(subject: Subject, *codes: str) -> list[tuple[str, str | None]]:
    return [(f.code, f.site) for f in check(subject, chosen(only=codes)).findings]


class Attack:
    """Climbs a part of the weights. again: takes the backup anew at each climb."""

    def __init__(self, model: nn.Module, again: bool) -> None:
        self.model, self.again, self.backup = model, again, dict[str, Tensor]()

    def climb(self, part: str = "read", epsilon: float = 0.3) -> None:
        for name, p in self.model.named_parameters():
            if part in name and p.grad is not None:
                if self.again or name not in self.backup:
                    self.backup[name] = p.data.clone()
                p.data.add_(p.grad, alpha=epsilon / float(p.grad.norm()))

    def restore(self, part: str = "read") -> None:
        for name, p in self.model.named_parameters():
            if part in name:
                p.data = self.backup[name]


def fgm(part: str) -> Step:
    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        attack = Attack(model, again=False)
        optimizer.zero_grad()
        clean = loss(model, batch)
        clean.backward()
        attack.climb()
        loss(model, batch).backward()
        attack.restore(part)
        optimizer.step()
        return clean

    return step


def pgd(again: bool) -> Step:
    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        attack = Attack(model, again)
        optimizer.zero_grad()
        clean = loss(model, batch)
        clean.backward()
        for _ in range(3):
            attack.climb()
            model.zero_grad()
            loss(model, batch).backward()
        attack.restore()
        optimizer.step()
        return clean

    return step


class Sharp(Optimizer):
    """Sharpness-aware minimisation. back: the weights come back before its base is stepped."""

    def __init__(self, model: nn.Module, back: bool) -> None:
        super().__init__(model.parameters(), {"rho": 0.05})
        self.base, self.back = SGD(self.param_groups, lr=0.1, momentum=0.9), back

    def step(self, closure: Callable[[], Tensor]) -> None:  # type: ignore[override]
        with torch.enable_grad():
            closure()
        held = [p for group in self.param_groups for p in group["params"]]
        ways = [0.05 * p.grad / p.grad.norm() for p in held]
        with torch.no_grad():
            torch._foreach_add_(held, ways)
        self.zero_grad()
        with torch.enable_grad():
            closure()
        if self.back:
            with torch.no_grad():
                torch._foreach_sub_(held, ways)
        self.base.step()


def sharply(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    found: list[Tensor] = []

    def closure() -> float:
        found.append(loss(model, batch))
        found[-1].backward()
        return float(found[-1])

    optimizer.zero_grad()
    optimizer.step(closure)
    return found[0].detach()


@contextmanager
def moved(model: nn.Module, way: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, weights are elsewhere; afterwards so much is taken off again."""
    held = list(model.parameters())
    ways = [way(p) for p in held]
    with torch.no_grad():
        torch._foreach_add_(held, ways)
    yield
    with torch.no_grad():
        torch._foreach_sub_(held, ways)


def climb(p: Tensor) -> Tensor:
    assert p.grad is not None
    return 0.1 * p.grad / p.grad.norm()


def subtracted_after(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    """The step is taken where the weights were moved to, and comes back with them."""
    optimizer.zero_grad()
    clean = loss(model, batch)
    clean.backward()
    with moved(model, climb):
        loss(model, batch).backward()
        optimizer.step()
    return clean


def loaded_after(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    """What the optimizer did is gone."""
    optimizer.zero_grad()
    clean = loss(model, batch)
    clean.backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        torch._foreach_add_(list(model.parameters()), [climb(p) for p in model.parameters()])
    loss(model, batch).backward()
    optimizer.step()
    model.load_state_dict(before)
    return clean


def noisy(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    """Each pass has noise of its own in the weights."""
    optimizer.zero_grad()
    total = torch.zeros(())
    for _ in range(3):
        with moved(model, lambda p: 0.01 * torch.randn_like(p)):
            part = loss(model, batch) / 3
            part.backward()
        total += part.detach()
    optimizer.step()
    return total


def decayed(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    """Micro-batches, decay by hand before the step and a clamp after it."""
    optimizer.zero_grad()
    total = torch.zeros(())
    for x, y in zip(batch["x"].chunk(4), batch["y"].chunk(4), strict=True):
        part = loss(model, {"x": x, "y": y}) / 4
        part.backward()
        total += part.detach()
    with torch.no_grad():
        torch._foreach_mul_(list(model.parameters()), 0.99)
    optimizer.step()
    with torch.no_grad():
        torch._foreach_clamp_min_(list(model.parameters()), -0.5)
    return total


def by_hand(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    """A few steps of descent by hand, whose way is the gradient of the optimizer (Reptile)."""
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        model.zero_grad()
        value = loss(model, batch)
        value.backward()
        with torch.no_grad():
            for p in model.parameters():
                assert p.grad is not None
                p.sub_(0.05 * p.grad)
    with torch.no_grad():
        for p, old in zip(model.parameters(), before, strict=True):
            p.grad = old - p
            p.copy_(old)
    optimizer.step()
    return value


@pytest.mark.parametrize("step", [fgm("nothing"), pgd(again=True), loaded_after])
def test_weights_that_are_not_put_back_are_told(step: Step) -> None:
    found = said(subject(step), "WIR035")
    assert found == [("WIR035", "read" if step is not loaded_after else found[0][1])]


def test_a_sharpness_aware_step_that_does_not_come_back_is_told() -> None:
    assert said(subject(sharply, lambda m: Sharp(m, back=False)), "WIR035")
    assert not said(subject(sharply, lambda m: Sharp(m, back=True)), "WIR035")


@pytest.mark.parametrize(
    "step", [fgm("read"), pgd(again=False), subtracted_after, noisy, decayed, by_hand]
)
def test_steps_that_put_weights_back_are_healthy(step: Step) -> None:
    assert not said(subject(step), "WIR035", "WIR020")


def test_what_a_module_writes_as_it_is_called_is_its_own() -> None:
    assert not said(subject(decayed, renewed=True), "WIR035")


def views(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    """Two views of all samples, a pass each."""
    optimizer.zero_grad()
    total = torch.zeros(())
    for _ in range(2):
        part = loss(model, batch | {"x": batch["x"] + 0.05 * torch.randn_like(batch["x"])})
        part.backward()
        total += part.detach()
    optimizer.step()
    return total


def halves(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    optimizer.zero_grad()
    total = torch.zeros(())
    for x, y in zip(batch["x"].chunk(2), batch["y"].chunk(2), strict=True):
        part = loss(model, {"x": x, "y": y})
        part.backward()
        total += part.detach()
    optimizer.step()
    return total


@pytest.mark.parametrize(("step", "told"), [(views, []), (halves, [("WIR020", "<optimizer>")])])
def test_passes_over_all_samples_are_no_micro_batches(
    step: Step, told: list[tuple[str, str]]
) -> None:
    assert said(subject(step), "WIR020") == told
