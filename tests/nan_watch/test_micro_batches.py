"""The loss code of any of a step's micro-batches is run again, as its frame knew it then."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from probes.finding import Finding

EACH, SICK = 4, 9  # micro-batches of a step; the one that is sick


def line(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    [number] = [i for i, text in enumerate(lines, 1) if text.endswith(f"# HERE {mark}")]
    return f"{__file__}:{number}"


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01)


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    for number in range(16):
        x, gate = torch.randn(6, 4), torch.ones(6)
        gate[2] = 0.0 if number == SICK else 1.0
        yield x, gate


def root(out: Tensor, gate: Tensor) -> Tensor:
    return (out.square().sum(-1) * gate).sqrt().mean()  # HERE root


def logarithm(out: Tensor, gate: Tensor) -> Tensor:
    return -(out.square().sum(-1) * gate).log().mean()  # HERE logarithm


def refused(loop: Callable[[], Any]) -> Finding:
    with pytest.raises(PoisonedStep) as caught:
        loop()
    return caught.value.finding


@pytest.mark.parametrize("loss_of", [root, logarithm])
def test_that_of_one_before_the_last_is_named_with_line_and_sample(
    loss_of: Callable[[Tensor, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 3))
    optimizer = sgd(model)

    def loop() -> None:
        with NanWatch(model, optimizer):
            for number, (x, gate) in enumerate(batches(), 1):
                out = model(x)
                loss = loss_of(out, gate)
                (loss / EACH).backward()
                if number % EACH == 0:
                    optimizer.step()
                    optimizer.zero_grad()

    finding = refused(loop)
    assert (finding.source, finding.samples) == (line(loss_of.__name__), (2,))
    assert finding.code == {"root": "NAN002", "logarithm": "NAN001"}[loss_of.__name__]
    assert finding.step == SICK // EACH


def part(model: nn.Module, x: Tensor, gate: Tensor) -> float:
    loss = root(model(x), gate) / EACH
    loss.backward()
    return float(loss.detach())


@pytest.mark.parametrize("each", [1, EACH])
def test_that_of_a_function_which_has_returned_is(each: int) -> None:
    model = nn.Linear(4, 3)
    optimizer = sgd(model)

    def loop() -> None:
        with NanWatch(model, optimizer):
            for number, (x, gate) in enumerate(batches(), 1):
                part(model, x, gate)
                if number % each == 0:
                    optimizer.step()
                    optimizer.zero_grad()

    assert refused(loop).source == line("root")


def test_what_the_loop_lets_go_of_is_free_and_its_own_view_of_its_names_as_it_was() -> None:
    model = nn.Linear(4, 3)
    optimizer = sgd(model)

    def view() -> None:
        given, seen = torch.randn(6, 4), locals()
        before = set(seen)
        model(given).square().mean().backward()
        assert set(seen) == before

    with NanWatch(model, optimizer):
        view()
        for _ in range(2):
            large = torch.randn(50, 4)
            out = model(large)
            gone = weakref.ref(large), weakref.ref(out)
            out.square().mean().backward()
            optimizer.step()
            del large, out
            assert [each() for each in gone] == [None, None]
