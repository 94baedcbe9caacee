"""A number for each sample that is drawn twice: once to make the input, once to tell of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.bus import Kind
from probes.execution import Event
from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.modules import every_module
from probes.raised import source_here

DRAWS = ("randint", "rand", "randint_like", "rand_like")
FEWEST = 4  # samples, of which as many in the same order are no chance
MOST = 12  # draws of a pass


@dataclass(frozen=True, slots=True)
class _Draw:
    """op, bounds: how it was drawn. line: of the user's code. value: (sample, ...) one each."""

    op: str
    bounds: tuple[Any, ...]
    line: str | None
    value: Tensor


@dataclass(frozen=True, slots=True)
class DrawnAgain:
    """input: of the model, which the first draw made; told: its input that is the second draw."""

    input: str
    told: str
    op: str
    first: str | None
    second: str | None


class _Draws(TorchFunctionMode):
    """While it is entered, notes numbers drawn for each sample; those of the one are exchanged."""

    def __init__(self, size: int, exchange: int | None = None) -> None:
        super().__init__()
        self.size, self.exchange = size, exchange
        self.found: list[_Draw] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run; what it drew goes to the next sample where that is asked for."""
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in DRAWS or not isinstance(out, Tensor) or len(self.found) >= MOST:
            return out
        if out.ndim and len(out) == out.numel() == self.size:
            bounds = tuple(each for each in args if isinstance(each, (int, float)))
            given = tuple(sorted((kwargs or {}).items(), key=lambda pair: pair[0]))
            bounds += tuple(v for k, v in given if k in ("low", "high") and isinstance(v, int))
            self.found.append(_Draw(name, bounds, source_here(), out.detach().clone()))
            if self.exchange == len(self.found) - 1:
                out = out.roll(1, 0)
        return out


def drawn_again(experiment: Experiment) -> Iterator[DrawnAgain]:
    """At most one: two draws of one kind, of which the model is told but the second.

    With the first exchanged between samples an input of the model by sample moves, and none that
    the second moves; what the second moves is that draw itself, or in its order. Raises
    ExperimentError.
    """
    size = experiment.size
    if size < FEWEST:
        return
    known, before = _ran(experiment, None)
    for i, j in combinations(range(len(known)), 2):
        one, two = known[i], known[j]
        alike = (one.op, one.bounds, one.value.dtype) == (two.op, two.bounds, two.value.dtype)
        if not alike or len(one.value.unique()) < FEWEST or len(two.value.unique()) < FEWEST:
            continue
        if any(_is_told(each, one.value) for each in before.values()):
            continue
        told = [name for name, each in before.items() if _is_told(each, two.value)]
        if not told:
            continue
        first, second = (_moved(before, _ran(experiment, k)[1]) for k in (i, j))
        made = [name for name in first if name not in second and len(before[name]) == size]
        if made and set(second) == set(told):
            yield DrawnAgain(made[0], told[0], one.op, one.line, two.line)
            return


def _ran(experiment: Experiment, exchange: int | None) -> tuple[list[_Draw], dict[str, Tensor]]:
    """What is drawn, and what the model is given, in its own mode."""
    mode = _Draws(experiment.size, exchange)
    ran = experiment.trained.run(experiment.batch, under=[mode])
    root = next(every_module(experiment.subject.model))[0]
    given = [each for each in ran.events if each.module == root and each.kind is Kind.INPUT]
    return mode.found, dict(_named(given))


def _named(given: list[Event]) -> Iterator[tuple[str, Tensor]]:
    for each in given:
        if each.value is not None and each.value.ndim:
            yield f"{each.site} (call {each.call + 1})" if each.call else each.site, each.value


def _moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    if before.keys() != after.keys():
        raise ExperimentError("the model is called otherwise with other draws")
    return [name for name, value in before.items() if not torch.equal(value, after[name])]


def _is_told(value: Tensor, draw: Tensor) -> bool:
    """Whether it is the draw, or numbers in the same or the reverse order, one for each sample."""
    if value.numel() != draw.numel() or len(value) != len(draw):
        return False
    one, two = value.flatten().double(), draw.flatten().double()
    ranks = [each.unique(return_inverse=True)[1] for each in (one, two)]
    return any(torch.equal(ranks[0], order) for order in (ranks[1], ranks[1].max() - ranks[1]))
