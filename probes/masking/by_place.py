"""What comes to a sample by its place in the batch and from no input, with its line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from probes.batch import leaves, take
from probes.experiment import LOSS, Experiment
from probes.finding import ExperimentError
from probes.operators.writes import memory
from probes.raised import source_here
from probes.running import names_of, running

ROUNDING = 1e-5  # of the largest value


@dataclass(frozen=True, slots=True)
class ByPlace:
    """site: the module whose code does it. name: of the parameter or buffer that it comes from."""

    site: str
    op: str
    source: str | None
    name: str | None


def by_place(experiment: Experiment) -> ByPlace | None:
    """The first operator that makes copies of one sample differ; None where none is found.

    The batch holds one sample again and again: what is computed from it is the same in each row,
    until something is joined to it that has a row for each place and was not computed from it.
    """
    batch = take(experiment.batch, [0] * experiment.size, experiment.layout)
    given = (leaf for leaf in leaves(batch).values() if isinstance(leaf, Tensor))
    rows = _Rows(experiment.subject.model, experiment.size, given)
    try:
        experiment.evaluate(batch, (rows,))
    except ExperimentError:
        return None
    return rows.found


class _Rows(TorchDispatchMode):
    """Follows what is computed from the batch, up to the first rows that differ."""

    def __init__(self, model: nn.Module, size: int, given: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: ByPlace | None = None
        self._size = size
        self._names = names_of(model)
        held = [*model.named_parameters(), *model.named_buffers()]
        self._kept = {memory(tensor): name for name, tensor in held}
        self._own = {id(tensor): tensor for tensor in given}  # held: no id comes again
        self._of: dict[int, tuple[Tensor, str | None]] = {}  # what else is computed, and from what

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operator has run as it would have."""
        if self.found is not None:
            return func(*args, **(kwargs or {}))
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        own = [each for each in given if id(each) in self._own]
        others = [each for each in given if id(each) not in self._own]
        axes = [axis for each in own for axis in self._even(each)] if others else []
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if not isinstance(each, Tensor):
                continue
            if own:
                self._own[id(each)] = each
                odd = next((o for o in others if self._uneven(o)), None)
                if odd is not None and any(self._parts(each, *axis) for axis in axes):
                    op = str(func).rpartition(".")[0]
                    self.found = ByPlace(
                        running(self._names) or LOSS, op, source_here(), self._name(odd)
                    )
                    break
            elif others:
                self._of[id(each)] = each, next(filter(None, map(self._name, others)), None)
        return out

    def _name(self, tensor: Tensor) -> str | None:
        own = self._kept.get(memory(tensor)) if memory(tensor) is not None else None
        return own or self._of.get(id(tensor), (tensor, None))[1]

    def _even(self, tensor: Tensor) -> Iterator[tuple[int, int]]:
        """The axes with a row for each sample that are all the same, beside how many there are."""
        for axis, n in enumerate(tensor.shape):
            if n == self._size and not _differ(tensor, axis):
                yield axis, tensor.ndim

    def _uneven(self, tensor: Tensor) -> bool:
        return any(n == self._size and _differ(tensor, i) for i, n in enumerate(tensor.shape))

    def _parts(self, tensor: Tensor, axis: int, ndim: int) -> bool:
        return tensor.ndim == ndim and tensor.shape[axis] == self._size and _differ(tensor, axis)


def _differ(tensor: Tensor, axis: int) -> bool:
    """Whether rows along the axis differ by more than rounding."""
    wide = tensor.detach().double()
    first = wide.narrow(axis, 0, 1)
    finite = wide.isfinite() & first.isfinite()
    apart = torch.where(finite, (wide - first).abs(), (wide != first).double())
    scale = torch.where(wide.isfinite(), wide.abs(), 0.0).max() if wide.numel() else 0.0
    return bool(wide.numel()) and bool(apart.max() > ROUNDING * scale)
