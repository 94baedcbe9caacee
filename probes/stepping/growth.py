"""Layers of weights that each give more than they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from probes.bus import Kind
from probes.experiment import Experiment
from probes.modules import every_module

TIMES = 3.0  # the root of the mean square, from what a layer is given to what it gives
LEAST = 3  # layers in a row


@dataclass(frozen=True, slots=True)
class Growth:
    """site: the first layer. factors: of each layer in the row, how much larger it makes it."""

    site: str
    factors: tuple[float, ...]

    @property
    def words(self) -> str:
        """That, in a sentence."""
        mean = sum(self.factors) / len(self.factors)
        return (
            f"from `{self.site}` on {len(self.factors)} layers make what they are given "
            f"{mean:.2g} times as large each"
        )


def growing(experiment: Experiment) -> Growth | None:
    """The first row of layers that grow; None where there is none."""
    modules = dict(every_module(experiment.subject.model))
    given: dict[str, float] = {}
    factors: list[tuple[str, float]] = []
    for event in experiment.evaluated.ran.events:
        layer, value = modules[event.module], event.value
        if not isinstance(layer, (nn.Linear, _ConvNd)) or value is None:
            continue
        if event.kind is Kind.INPUT:
            given[event.module] = _size(value)
        elif given.get(event.module) and event.module not in dict(factors):
            factors.append((event.module, _size(value) / given.pop(event.module)))
    return _row(factors)


def _row(factors: Sequence[tuple[str, float]]) -> Growth | None:
    for start in range(len(factors)):
        row = list(takewhile(lambda each: each[1] > TIMES, factors[start:]))
        if len(row) >= LEAST:
            return Growth(row[0][0], tuple(factor for _, factor in row))
    return None


def _size(value: Tensor) -> float:
    return float(value.detach().double().square().mean().sqrt())
