"""Code of the loop's own that makes gradients not finite between the backward pass and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from probes.finding import Finding

EMPTY = 5  # the batch that has no loss, and so no gradient

Watch = Callable[[nn.Module, torch.optim.Optimizer], Any]


def line(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    [number] = [i for i, text in enumerate(lines, 1) if text.endswith(f"# HERE {mark}")]
    return f"{__file__}:{number}"


def batches() -> Iterator[tuple[Tensor, Tensor, float]]:
    generator = torch.Generator().manual_seed(0)
    for step in range(EMPTY + 3):
        rows = torch.randn(8, 4, generator=generator)
        yield rows, rows.sum(1, keepdim=True), 0.0 if step == EMPTY else 1.0


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))


def scaled(model: nn.Module, least: float) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(parameter.grad.abs().amax().clamp(min=least))  # HERE largest


def by_a_function(watch: Watch, least: float) -> nn.Module:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for rows, labels, weight in batches():
            optimizer.zero_grad()
            loss = weight * (model(rows) - labels).square().mean()
            loss.backward()
            scaled(model, least)
            optimizer.step()
    return model


def under_a_condition(watch: Watch, least: float) -> nn.Module:
    """What stands behind the step there must not run again."""
    model, taken = net(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for index, (rows, labels, weight) in enumerate(batches()):
            loss = weight * (model(rows) - labels).square().mean()
            loss.backward()
            if index % 1 == 0:
                total = sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None)
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter.grad.mul_(1.0 / (total + least))  # HERE total
                optimizer.step()
                optimizer.zero_grad()
                taken.append(index)
            assert taken == list(range(index + 1))
    return model


def by_hand(watch: Watch, least: float) -> nn.Module:
    """A parameter that no optimizer holds is written after the step, from its gradient."""
    model = net()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.01)
    with watch(model, optimizer):
        for rows, labels, weight in batches():
            model.zero_grad()
            (weight * (model(rows) - labels).square().mean()).backward()
            optimizer.step()
            with torch.no_grad():
                for own in model[2].parameters():
                    own -= 0.01 * own.grad / (own.grad.norm() + least)  # HERE norm
    return model


LOOPS = {"largest": by_a_function, "total": under_a_condition, "norm": by_hand}


def named(loop: Callable[[Watch, float], nn.Module]) -> Finding:
    with pytest.raises(PoisonedStep) as caught:
        loop(NanWatch, 0.0)
    return caught.value.finding


@pytest.mark.parametrize("mark", LOOPS)
def test_the_operator_and_its_line_are_named(mark: str) -> None:
    finding = named(LOOPS[mark])
    assert (finding.source, finding.step) == (line(mark), EMPTY)
    assert finding.site == ("2.weight" if mark == "norm" else "0.weight")
    assert finding.phase == ("update" if mark == "norm" else "backward")
    assert finding.confirmed


@pytest.mark.parametrize("mark", LOOPS)
def test_healthy_code_is_left_alone(mark: str) -> None:
    watches: list[NanWatch] = []

    def watch(model: nn.Module, optimizer: torch.optim.Optimizer) -> NanWatch:
        watches.append(NanWatch(model, optimizer))
        return watches[0]

    bare = LOOPS[mark](lambda *_: nullcontext(), 1e-8)
    model = LOOPS[mark](watch, 1e-8)
    assert not [each for each in watches[0].findings if each.verdict.value != "note"]
    for one, two in zip(bare.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, two)
