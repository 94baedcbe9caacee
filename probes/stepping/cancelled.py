"""Matrices whose gradient is nothing but rounding: in a wider float it is smaller by as much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from probes.experiment import Experiment, attempted
from probes.finding import ExperimentError
from probes.slopes.slope import Exact
from probes.stepping.matters import matters

NARROW = 1e-5  # of the largest gradient: what rounding in float32 may leave of nothing
WIDE = 1e-12  # the same in float64


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A matrix, and the largest magnitude of its gradient, of the largest of all: in its own
    float over a few steps, and in float64."""

    name: str
    narrow: float
    wide: float


def cancelled(experiment: Experiment) -> list[Cancelled]:
    """The matrices that the loss hangs on, and whose gradient cancels out, nearest to it first.

    What a softmax or a normalisation cancels by design are vectors, such as the bias of a key, and
    so is what has one axis that is longer than 1; where a vector beside a matrix has a gradient,
    the matrix is no more at fault than the numbers that it reads, which may all be zero.
    """
    live = dict(experiment.subject.model.named_parameters())
    largest = experiment.walked.largest
    most = max(largest.values(), default=0.0)
    small = {name for name, size in largest.items() if size <= NARROW * most}
    few = [
        name
        for name in largest
        if name in small
        and largest[name] > 0
        and _is_matrix(live[name])
        and _alone(name, largest, small)
    ]
    if not few:
        return []
    exact = Exact(experiment)
    try:
        with exact.float64(), attempted("in float64 the loss"):
            wide = {n: float(g.abs().max()) for n, g in exact.gradient().items() if g is not None}
    except ExperimentError:
        return []
    top = max(wide.values(), default=0.0)
    return [
        Cancelled(name, largest[name] / most, wide[name] / top)
        for name in reversed(few)
        if top > 0 and wide.get(name, top) <= WIDE * top and matters(experiment, live[name])
    ]


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.requires_grad and sum(length > 1 for length in parameter.shape) > 1


def _alone(name: str, largest: Mapping[str, float], small: set[str]) -> bool:
    """Whether every other parameter of its module that has a gradient has one as small."""
    module = name.rpartition(".")[0]
    return all(other in small for other in largest if other.rpartition(".")[0] == module)
