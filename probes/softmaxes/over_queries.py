"""Attention whose weights sum to one over its queries, and what comes of that alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from probes.compare import NOISES, Look
from probes.execution import Ran
from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.masking.visible import differ
from probes.operators.items import item_lengths
from probes.operators.normed import Crossed
from probes.raised import source_here
from probes.subject import Batch


def over_queries(experiment: Experiment) -> list[Crossed]:
    """Weights of attention that are normalised over its queries, and multiplied along its keys."""
    return [
        each
        for each in experiment.operated.crossed
        if not each.of.square and _is_over_queries(experiment, each)
    ]


def _is_over_queries(experiment: Experiment, crossed: Crossed) -> bool:
    """Whether the axis that sums to one is of queries that the batch brings, and not of clusters.

    A product of the weights as they are with values on their right is known by that alone. Else
    the axis must be one of the batch's items, and the scores products, or the summed axes of items.
    """
    if crossed.sure:
        return True
    items = item_lengths(experiment)
    if not crossed.spread or crossed.of.shape[crossed.of.axis] not in items:
        return False
    return crossed.of.scored or all(length in items for length in crossed.summed)


class _Righted(TorchDispatchMode):
    """While it is entered, softmaxes of these lines and axes run over the last axis."""

    def __init__(self, places: set[tuple[str, int, int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._places = places

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator has run."""
        if func._schema.name == "aten::_softmax" and args[0].ndim:
            place = (source_here(), args[1] % args[0].ndim, args[0].ndim)
            args = (args[0], -1, *args[2:]) if place in self._places else args
        return func(*args, **(kwargs or {}))


def comes_of_queries(
    experiment: Experiment, other: Batch, look: Look, aligned: Callable[[Ran, Ran], Ran]
) -> bool:
    """Whether what moves with the other batch moves no more once such softmaxes are over the keys.

    aligned: brings what the other batch gives into the shapes of the other.
    """
    try:
        places = _places(experiment)
        if not places:
            return False
        before, after = (
            experiment.evaluate(batch, (_Righted(places),)) for batch in (experiment.batch, other)
        )
    except ExperimentError:
        return False
    noise = NOISES * experiment.evaluated.noise
    return not differ(before, aligned(after, before), look, noise)


def _places(experiment: Experiment) -> set[tuple[str, int, int]]:
    """Line, axis and number of axes of softmaxes whose weights enter a product as they are."""
    return {
        (each.of.source, each.of.axis % len(each.of.shape), len(each.of.shape))
        for each in over_queries(experiment)
        if each.sure and each.of.source is not None
    }
