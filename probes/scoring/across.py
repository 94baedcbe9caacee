"""A number a sample, `(N,)`, that meets N features, so that each feature gets another sample's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.batch import take
from probes.experiment import Experiment, attempted, copied
from probes.finding import ExperimentError
from probes.raised import source_here
from probes.replay import Snapshot, replay
from probes.subject import Batch

MOST = 50  # calls that are kept
NEAR = 1e-4  # of a value: as near are values of the same sample in another place of the batch


@dataclass(frozen=True, slots=True)
class Met:
    """A call that was given `(N,)` and `(N, ..., N)`."""

    op: str
    source: str | None
    vector: Tensor
    other: Tensor


class _Meetings(TorchFunctionMode):
    """While it is entered, keeps the calls of these names that such a pair is given."""

    def __init__(self, ops: Sequence[str], size: int) -> None:
        super().__init__()
        self.ops, self.size = ops, size
        self.found: list[Met] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in self.ops and len(self.found) < MOST:
            self._keep(name.strip("_"), [each for each in args[:2] if isinstance(each, Tensor)])
        return func(*args, **(kwargs or {}))

    def _keep(self, op: str, given: list[Tensor]) -> None:
        if len(given) < 2:
            return
        vector, other = sorted(given, key=lambda each: each.ndim)
        if vector.ndim != 1 or other.ndim < 2:
            return
        if len(vector) == len(other) == other.shape[-1] == self.size:
            kept = vector.detach().clone(), other.detach().clone()
            self.found.append(Met(op, source_here(), *kept))


def across(experiment: Experiment, ops: Sequence[str]) -> Met | None:
    """The first such call whose `(N,)` follows the order of the samples, which the features do not.

    With the batch in another order, what is one number a sample comes in that order, and the other
    operand comes in it along its first axis alone: its last one is of features. The loss is run in
    evaluation mode; what it draws at random does not follow, and is left out.
    """
    before = _meetings(experiment, ops, experiment.batch)
    if not before:
        return None
    order = [*range(1, experiment.size), 0]
    turned = take(experiment.batch, order, experiment.layout)
    after = _meetings(experiment, ops, turned)
    pairs = zip(before, after, strict=True) if len(before) == len(after) else ()
    return next((one for one, two in pairs if _is_across(one, two, order)), None)


def _meetings(experiment: Experiment, ops: Sequence[str], batch: Batch) -> list[Met]:
    subject, mode = experiment.subject, _Meetings(ops, experiment.size)

    def step() -> Tensor:
        with attempted("`Subject.loss`"), torch.no_grad():
            subject.loss(subject.model.eval(), copied(batch))
        return torch.zeros(())

    try:
        replay(step, subject.model, Snapshot.take(subject.model), under=[mode])
    except ExperimentError:
        return []
    return mode.found


def _is_across(one: Met, two: Met, order: list[int]) -> bool:
    if one.other.shape != two.other.shape or _near(one.vector, one.vector[order]):
        return False
    rows = _near(two.vector, one.vector[order]) and _near(two.other, one.other[order])
    return rows and not _near(two.other, one.other[order][..., order])


def _near(one: Tensor, other: Tensor) -> bool:
    a, b = one.double(), other.double()
    return bool(torch.allclose(a, b, rtol=NEAR, atol=NEAR * float(b.abs().max())))
