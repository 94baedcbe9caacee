"""An optimizer of the user's own that divides by nothing: its step is run again, and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nan_watch import NanWatch, PoisonedStep
from probes.finding import Finding

EASY = 3  # the step whose batch has no loss, and so no gradient


def line(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    [number] = [i for i, text in enumerate(lines, 1) if text.endswith(f"# HERE {mark}")]
    return f"{__file__}:{number}"


class Own(torch.optim.Optimizer):
    def __init__(self, parameters: Any, lr: float = 0.01, eps: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps})
        self.taken = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.write(parameter, parameter.grad, group["lr"], group["eps"])
        self.taken += 1

    def write(self, parameter: Tensor, grad: Tensor, lr: float, eps: float) -> None:
        raise NotImplementedError


class Ratio(Own):
    """Layer-wise: a weight's norm over its gradient's."""

    def write(self, parameter: Tensor, grad: Tensor, lr: float, eps: float) -> None:
        ratio = parameter.norm() / (grad.norm() + eps)  # HERE ratio
        parameter.add_(grad * ratio, alpha=-lr)


class Root(Own):
    """By the root of the mean square, which begins at zero."""

    def write(self, parameter: Tensor, grad: Tensor, lr: float, eps: float) -> None:
        square = self.state[parameter].setdefault("square", torch.zeros_like(parameter))
        square.mul_(0.9).addcmul_(grad, grad, value=0.1)
        noise = 1e-6 * torch.randn_like(parameter)
        parameter.sub_(grad * (square + eps).rsqrt() + noise, alpha=lr)  # HERE root


class Unbiased(Own):
    """Corrects by a count that is raised too late."""

    def __init__(self, parameters: Any, **settings: float) -> None:
        super().__init__(parameters, **settings)
        self.means = [torch.zeros_like(p) for g in self.param_groups for p in g["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        [group] = self.param_groups
        lack = torch.tensor(1 - 0.9**self.taken + group["eps"])
        for parameter, mean in zip(group["params"], self.means, strict=True):
            mean.mul_(0.9).add_(parameter.grad, alpha=0.1)
            parameter.sub_(mean / lack, alpha=group["lr"])  # HERE lack
        self.taken += 1


def batches(steps: int = EASY + 3) -> Iterator[tuple[Tensor, Tensor, float]]:
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows, labels = torch.randn(8, 4, generator=generator), torch.arange(8) % 3
        yield rows, labels, 0.0 if step == EASY else 1.0


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].bias[2] = -100.0  # a unit that never opens
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = EASY + 3) -> None:
    for rows, labels, weight in batches(steps):
        optimizer.zero_grad()
        (weight * F.cross_entropy(model(rows), labels)).backward()
        optimizer.step()


def named(make: Callable[[Any], Own], **how: Any) -> Finding:
    model = net()
    optimizer = make(model.parameters())
    with pytest.raises(PoisonedStep) as caught, NanWatch(model, optimizer, **how):
        train(model, optimizer)
    return caught.value.finding


def test_a_zero_norm_is_named_in_the_step_whose_gradients_are_zero() -> None:
    finding = named(Ratio)
    assert (finding.op, finding.source) == ("aten.div", line("ratio"))
    assert (finding.site, finding.phase, finding.step) == ("<optimizer>", "update", EASY)
    assert finding.confirmed
    again = next(e for e in finding.evidence if e.what.startswith("the step of Ratio, run again"))
    assert again.value == "the parameters as they are, to the bit"


def test_a_state_that_begins_at_zero_is_named_in_the_first_step() -> None:
    finding = named(Root)
    assert (finding.op, finding.source, finding.step) == ("aten.rsqrt", line("root"), 0)
    assert finding.where["row"] == 2


def test_what_the_optimizer_keeps_as_attributes_is_given_back_too() -> None:
    finding = named(Unbiased)
    assert (finding.code, finding.source, finding.step) == ("NAN004", line("lack"), 0)


def test_a_step_that_is_let_through_is_named_too() -> None:
    model = net()
    optimizer = Ratio(model.parameters())
    with NanWatch(model, optimizer, on_poison="allow") as watch:
        train(model, optimizer)
    assert (watch.findings[0].source, watch.findings[0].step) == (line("ratio"), EASY)


def test_the_last_update_is_named_when_the_watch_ends() -> None:
    model = net()
    optimizer = Ratio(model.parameters())
    with NanWatch(model, optimizer) as watch:
        train(model, optimizer, EASY + 1)
    assert (watch.findings[0].source, watch.findings[0].step) == (line("ratio"), EASY)


@pytest.mark.parametrize("make", [Ratio, Root, Unbiased])
def test_a_healthy_one_is_left_alone(make: type[Own]) -> None:
    bare, model = net(), net()
    torch.manual_seed(1)
    own = make(bare.parameters(), eps=1e-8)
    train(bare, own)
    torch.manual_seed(1)
    optimizer = make(model.parameters(), eps=1e-8)
    with NanWatch(model, optimizer) as watch:
        train(model, optimizer)
    assert not watch.findings
    assert optimizer.taken == own.taken
    for one, two in zip(bare.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, two)
