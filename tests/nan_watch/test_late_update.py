"""An optimizer of the user's own whose update goes wrong in the midst of a run, without a sign."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from nan_watch.hunt import hunt
from nan_watch.inquest.kept_update import SMALL, KeptUpdates
from probes.finding import Finding
from probes.subject import Subject

LATE, STEPS = 6, 9  # LATE: the step that goes wrong
LITTLE = 16  # numbers in a parameter


def line(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    [number] = [i for i, text in enumerate(lines, 1) if text.endswith(f"# HERE {mark}")]
    return f"{__file__}:{number}"


class Own(torch.optim.Optimizer):
    def __init__(self, parameters: Any, safe: bool = False) -> None:
        super().__init__(parameters, {"lr": 0.01, "safe": safe})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if closure is not None:
            with torch.enable_grad():
                closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    moved = self.direction(parameter, parameter.grad, safe=group["safe"])
                    parameter.sub_(moved, alpha=group["lr"])

    def direction(self, parameter: Tensor, grad: Tensor, *, safe: bool) -> Tensor:
        raise NotImplementedError


class Signed(Own):
    """By its size, number by number: 0 / 0 where one gradient is zero."""

    def direction(self, parameter: Tensor, grad: Tensor, *, safe: bool) -> Tensor:
        size = grad.abs()
        return grad / (size + 1e-8 if safe else size)  # HERE size


class Spread(Own):
    """By the root of a difference of running means, which is negative as gradients fall."""

    def direction(self, parameter: Tensor, grad: Tensor, *, safe: bool) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["fast"], state["slow"] = torch.zeros_like(grad), torch.zeros_like(grad)
        fast = state["fast"].mul_(0.1).addcmul_(grad, grad, value=0.9)
        slow = state["slow"].mul_(0.9).addcmul_(grad, grad, value=0.1)
        spread = fast - slow
        if safe:
            spread = spread.clamp(min=1e-8)
        return grad / spread.sqrt()  # HERE spread


class Scale(nn.Module):
    """Two parameters that are not used in the same steps, where `other` is asked for."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(numbers))
        self.other = nn.Parameter(torch.ones(2))

    def forward(self, factor: Tensor, *, other: bool = False) -> Tensor:
        return ((self.other if other else self.weight) * factor).sum()


def factor(step: int, numbers: int) -> Tensor:
    """(number,) the gradients of a step."""
    factors = torch.full((numbers,), 0.1 if step == LATE else 1.0)
    factors[1] = 0.0 if step == LATE else 1.0
    return factors


def train(model: Scale, optimizer: torch.optim.Optimizer, *, closure: bool = False) -> None:
    for step in range(STEPS):
        optimizer.zero_grad()
        factors = factor(step, model.weight.numel())

        def loss(factors: Tensor = factors) -> Tensor:
            told = model(factors)
            told.backward()
            return told

        if closure:
            optimizer.step(loss)
        else:
            loss()
            optimizer.step()


def named(make: type[Own], numbers: int, **how: Any) -> Finding:
    model = Scale(numbers)
    optimizer = make([model.weight])
    with pytest.raises(PoisonedStep) as caught, NanWatch(model, optimizer):
        train(model, optimizer, **how)
    return caught.value.finding


def test_a_small_one_is_named() -> None:
    finding = named(Signed, LITTLE)
    assert (finding.op, finding.source) == ("aten.div", line("size"))
    assert (finding.site, finding.phase, finding.step) == ("<optimizer>", "update", LATE)


@pytest.mark.parametrize("numbers", [LITTLE, 2 * SMALL])
def test_the_root_of_a_difference_is_named_in_a_larger_one_too(numbers: int) -> None:
    finding = named(Spread, numbers)
    assert (finding.op, finding.source) == ("aten.sqrt", line("spread"))
    assert (finding.code, finding.phase, finding.step) == ("NAN023", "update", LATE)


def test_one_that_is_not_kept_tells_since_when_and_what_to_do() -> None:
    finding = named(Signed, LITTLE, closure=True)
    assert (finding.code, finding.op, finding.step) == ("NAN017", None, LATE)
    before = f"became not finite between the update of step {LATE - 1} and step {LATE + 1}"
    assert before in finding.message
    assert "`whynan hunt`" in finding.fix


def test_of_a_parameter_that_is_not_looked_at_whole_nothing_is_known() -> None:
    finding = named(Signed, 2 * SMALL)
    assert (finding.code, finding.op) == ("NAN017", None)
    assert "between the start and step" in finding.message


def test_a_run_from_the_start_names_what_was_not_kept(tmp_path: Path) -> None:
    numbers = 2 * SMALL
    subject = Subject(
        Scale(numbers),
        [{"factor": factor(step, numbers)} for step in range(STEPS)],
        lambda model, batch: model(**batch),
        lambda model: Signed([model.weight]),
    )
    finding = hunt(subject, STEPS, tmp_path / "run").judgement.findings[0]
    assert (finding.op, finding.source, finding.step) == ("aten.div", line("size"), LATE)
    assert "`whynan hunt`" not in finding.fix


@pytest.mark.parametrize("make", [Signed, Spread])
def test_a_healthy_one_is_left_alone(make: type[Own]) -> None:
    bare, model = Scale(LITTLE), Scale(LITTLE)
    train(bare, make([bare.weight], safe=True))
    optimizer = make([model.weight], safe=True)
    with NanWatch(model, optimizer) as watch:
        train(model, optimizer)
    assert {each.code for each in watch.findings} == {"GRD004"}  # `other` is not used
    assert torch.equal(bare.weight, model.weight)


def kept(optimizer: Own, model: Scale, steps: int = STEPS) -> list[bool]:
    """Of each step whether it is kept."""
    updates, found = KeptUpdates(model), []
    model.weight.grad = torch.ones_like(model.weight)
    for _ in range(steps):
        updates.before(optimizer, np.array([1.0]), bare=True)
        found.append(updates.newest is not None)
        optimizer.step()
    return found


class Guarded(Own):
    """As Adam, without a mean."""

    def direction(self, parameter: Tensor, grad: Tensor, *, safe: bool) -> Tensor:
        return grad / (grad.square().sqrt() + 1e-8)


@pytest.mark.parametrize(("make", "numbers"), [(Signed, 2 * SMALL), (Guarded, LITTLE)])
def test_what_is_large_or_guarded_costs_nothing_after_its_first_steps(
    make: type[Own], numbers: int
) -> None:
    model = Scale(numbers)
    assert kept(make([model.weight]), model) == [True, True] + [False] * (STEPS - 2)


def test_one_whose_record_grows_with_the_run_is_given_up() -> None:
    class Noted(Signed):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters)
            self.lengths: list[float] = []

        def direction(self, parameter: Tensor, grad: Tensor, *, safe: bool) -> Tensor:
            self.lengths += [1.0] * 40
            return super().direction(parameter, grad, safe=safe)

    model = Scale(LITTLE)
    found = kept(Noted([model.weight]), model, 12)
    assert found == sorted(found, reverse=True)
    assert found[0]
    assert not found[-1]


def train_by_hand(model: Scale, optimizer: torch.optim.Optimizer) -> None:
    """`other` is used in the first step alone, and written in each."""
    for step in range(STEPS):
        optimizer.zero_grad()
        model(torch.ones(LITTLE) if step else torch.ones(2), other=step == 0).backward()
        optimizer.step()
        with torch.no_grad():
            model.other.div_(step - LATE)  # HERE by hand


def test_what_the_loop_writes_beside_it_is_looked_at_as_well() -> None:
    model = Scale(LITTLE)
    optimizer = Signed([model.weight])
    with pytest.raises(PoisonedStep) as caught, NanWatch(model, optimizer):
        train_by_hand(model, optimizer)
    finding = caught.value.finding
    assert (finding.source, finding.step) == (line("by hand"), LATE)
