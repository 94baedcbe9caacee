"""A mask that a comparison makes the wrong way round: turned, it hides what it is to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from probes.compare import NOISES
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.masking.hidden import Hidden
from probes.masking.visible import Visible, changed, differ
from probes.raised import source_here
from probes.vary import vary

MOST = 4  # comparisons that are turned round, one by one


@dataclass(frozen=True, slots=True)
class Turned:
    """source: the line of the comparison.

    blind: whether, as it is, nothing that is visible has an effect, and all that is read is one
    number again and again.
    """

    source: str | None
    blind: bool


def turned(experiment: Experiment, each: Hidden) -> Turned | None:
    """The comparison that lets nothing hidden through once it is turned round; None of none.

    It gives just what the mask shows, or hides, and what is visible still counts then. Raises
    ExperimentError where the subject raises as it is.
    """
    first = _Comparisons(each.keep)
    experiment.evaluate(experiment.batch, (first,))
    varied = changed(experiment, [each])
    shown = vary(experiment.tensors[each.key], each.keep)
    if varied is None or shown is None or not first.found:
        return None
    batches = experiment.batch, varied, with_leaf(experiment.batch, each.key, shown)
    look, limit = Visible(experiment, each), NOISES * experiment.evaluated.noise
    for place, source in enumerate(first.found[:MOST]):
        try:
            before, hidden, visible = (
                experiment.evaluate(batch, (_Comparisons(each.keep, place),)) for batch in batches
            )
        except ExperimentError:
            continue
        if not differ(before, hidden, look, limit) and differ(before, visible, look, limit):
            as_is, held = experiment.evaluate(batches[-1]), experiment.tensors[each.key][~each.keep]
            idle = not differ(experiment.evaluated.ran, as_is, look, limit)
            return Turned(source, idle and bool((held == held.flatten()[:1]).all()))
    return None


class _Comparisons(TorchDispatchMode):
    """Keeps the lines of comparisons that give what a mask shows, or hides, and turns one round.

    found: the lines, in their order. place: which of them is turned.
    """

    def __init__(self, keep: Tensor, place: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.found: list[str | None] = []
        self._keep, self._place = keep, place

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operator has run; a comparison that is to be turned gives the opposite."""
        out = func(*args, **(kwargs or {}))
        if type(out) is not Tensor or out.dtype is not torch.bool:
            return out
        given = [each for each in args if isinstance(each, Tensor)]
        if not any(each.dtype is not torch.bool for each in given) or not self._fits(out):
            return out
        self.found.append(source_here())
        return ~out if len(self.found) - 1 == self._place else out

    def _fits(self, made: Tensor) -> bool:
        plain = made.squeeze()
        for keep in _ways(self._keep):
            if plain.shape == keep.shape and (plain.equal(keep) or plain.equal(~keep)):
                return True
        return False


def _ways(keep: Tensor) -> Iterator[Tensor]:
    yield keep.squeeze()
    if keep.ndim == 2:
        yield keep.T.squeeze()
