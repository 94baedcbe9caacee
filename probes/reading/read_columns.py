"""Which columns of numbers nobody reads, and which modules read the very same ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.batch import leaves, map_leaves
from probes.bus import Bus, Kind, See
from probes.compare import NOISES, everywhere
from probes.experiment import Experiment, attempted, copied, with_leaf
from probes.finding import ExperimentError
from probes.masking.visible import differ
from probes.raised import source_here
from probes.reading.alive import alive, gradients
from probes.replay import Snapshot, replay
from probes.subject import Batch
from probes.vary import vary

WIDEST = 512  # columns
MORE = 2  # batches, beside the first, in which they are not read either


def wide_keys(experiment: Experiment) -> list[str]:
    """Keys of numbers, one row of columns a sample or a place, that are no labels.

    Of columns some of which a mask hides, who reads what is another question.
    """
    hidden = {each.key for each in experiment.masks if each.keep.ndim > 1}
    return [
        key
        for key, tensor in experiment.tensors.items()
        if tensor.is_floating_point()
        and tensor.ndim in (2, 3)
        and len(tensor) == experiment.size
        and 1 < tensor.shape[-1] <= WIDEST
        and not (tensor.ndim == 2 and key in hidden)
        and key not in experiment.targets
    ]


def unread_columns(experiment: Experiment, batches: Sequence[Batch]) -> dict[str, list[int]]:
    """By key, the columns at which other values move nothing, while others of the key are read.

    Those are asked where neither the loss nor what the model gives has a gradient, in the batch of
    the experiment and in the others. Empty where the subject bears no gradient of its inputs.
    """
    keys = wide_keys(experiment)
    try:
        still = _still(experiment, experiment.batch, keys) if keys else {}
        for batch in batches:
            if any(still.values()):
                more = _still(experiment, batch, list(still))
                still = {key: still[key] & more.get(key, set()) for key in still}
        found = {key: sorted(columns) for key, columns in still.items() if columns}
        return {
            key: columns for key, columns in found.items() if _unmoved(experiment, key, columns)
        }
    except ExperimentError:
        return {}


def _still(experiment: Experiment, batch: Batch, keys: Sequence[str]) -> dict[str, set[int]]:
    """By key, the columns without a gradient; none where no column has one."""
    asked: dict[str, Tensor] = {}

    def learns(path: str, leaf: Any) -> Any:
        if path in keys and isinstance(leaf, Tensor):
            asked[path] = leaf.detach().clone().requires_grad_()
            return asked[path]
        return leaf

    seen = alive(experiment, map_leaves(batch, learns), picks=False)
    values = [each.tensor for each in seen.given] + [seen.loss] * seen.loss.requires_grad
    felt = {
        key: torch.zeros(leaf.shape[-1], dtype=torch.bool, device="cpu")
        for key, leaf in asked.items()
    }
    for value in values:
        weights = torch.linspace(0.5, 1.5, value.numel(), device=value.device).cos() + 0.3
        grads = gradients((value.flatten() * weights.to(value.dtype)).sum(), list(asked.values()))
        for key, grad in zip(asked, grads, strict=True):
            if grad is not None:
                felt[key] |= (grad != 0).flatten(0, -2).any(0).cpu()
    known = {key: set((~own).nonzero().flatten().tolist()) for key, own in felt.items()}
    return {key: columns for key, columns in known.items() if len(columns) < len(felt[key])}


def _unmoved(experiment: Experiment, key: str, columns: list[int]) -> bool:
    """Whether nothing moves with another sample's values there, nor with others at all."""
    tensor, before = experiment.tensors[key], experiment.evaluated
    where = torch.zeros(tensor.shape[-1], dtype=torch.bool, device=tensor.device)
    where[columns] = True
    others = [
        torch.where(where, tensor.roll(1, 0), tensor),
        vary(tensor, where.expand(tensor.shape)),
    ]
    for other in others:
        if other is None:
            return False
        ran = experiment.evaluate(with_leaf(experiment.batch, key, other))
        shapes = {name: value.shape for name, value in ran.outputs.items()}
        if any(shapes.get(name) != value.shape for name, value in before.ran.outputs.items()):
            return False
        if differ(before.ran, ran, everywhere, NOISES * before.noise):
            return False
    return True


@dataclass
class _Slices(TorchFunctionMode):
    """Which columns of one tensor are cut out, and which modules are given what was cut."""

    readers: dict[str, set[int]] = field(default_factory=dict)
    lines: dict[str, str | None] = field(default_factory=dict)
    sees: Mapping[Kind, See] = field(init=False)
    bus: Bus | None = None

    def __post_init__(self) -> None:
        TorchFunctionMode.__init__(self)
        self.sees = {Kind.INPUT: self.see}
        self._known = WeakTensorKeyDictionary()

    def know(self, leaf: Tensor) -> None:
        columns = torch.arange(leaf.shape[-1], device=leaf.device)
        self._known[leaf] = columns.expand(leaf.shape), None

    def see(self, number: int, tensor: Tensor) -> None:
        assert self.bus is not None
        if tensor in self._known:
            columns, line = self._known[tensor]
            name = self.bus.sites[number].name
            self.readers.setdefault(name, set()).update(columns.unique().tolist())
            self.lines[name] = line

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result; of what cuts, the columns' numbers are cut as well."""
        out = func(*args, **(kwargs or {}))
        first = args[0] if args else None
        name = getattr(func, "__name__", "").strip("_")
        if isinstance(first, Tensor) and first in self._known and name in _CUTS:
            cut = func(self._known[first][0], *args[1:], **(kwargs or {}))
            pairs = [(out, cut)] if isinstance(out, Tensor) else zip(out, cut, strict=True)
            for each, columns in pairs:
                self._known[each] = columns, source_here()
        return out


_CUTS = {
    "getitem",
    "narrow",
    "split",
    "chunk",
    "index_select",
    "unsqueeze",
    "squeeze",
    "contiguous",
}


@dataclass(frozen=True, slots=True)
class Sisters:
    """Modules that are called alike but for a number, and the columns that two of them are given.

    source: the line that cuts the columns.
    """

    names: tuple[str, ...]
    columns: tuple[int, ...]
    source: str | None


def read_by_sisters(experiment: Experiment, key: str) -> Sisters | None:
    """The first such modules; None where each is given its own."""
    slices, model = _Slices(), experiment.subject.model

    def step() -> Tensor:
        batch = copied(experiment.batch)
        slices.know(leaves(batch)[key])
        with attempted("`Subject.loss`, in evaluation mode,"):
            experiment.subject.loss(model.eval(), batch)
        return torch.zeros(())

    with Bus(model, [slices], whole=True) as slices.bus:
        replay(step, model, Snapshot.take(model), under=[slices])
    whole = set(range(experiment.tensors[key].shape[-1]))
    for sisters in _families(slices.readers):
        sets = [slices.readers[name] for name in sisters]
        shared = {c for c in whole if sum(c in own for own in sets) > 1}
        if shared and all(own != whole for own in sets):
            line = slices.lines[sisters[0]]
            return Sisters(tuple(sisters), tuple(sorted(shared)), line)
    return None


def _families(names: Mapping[str, set[int]]) -> Iterator[list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    yield from (family for family in found.values() if len(family) > 1)
