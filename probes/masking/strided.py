"""Masks that count positions as they were before strides, and so hide too little after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from probes.compare import NOISES, scale
from probes.execution import Ran
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.masking.hidden import Hidden
from probes.masking.longer import longer
from probes.masking.visible import leaks

MOST = 64  # positions that a place after the strides may stand for


@dataclass(frozen=True)
class Strided:
    """A mask that hides nothing of some samples, where a model has strides.

    by: how many positions a place after the strides stands for. rows: samples with so much padding
    that are the same with all of it shown, and others with `by` positions of padding more. padded:
    how many samples have so much padding. largest: how much they change, over the output's size.
    """

    each: Hidden
    by: int
    rows: tuple[int, ...]
    padded: int
    largest: float
    output: str


def strided(experiment: Experiment) -> Iterator[Strided]:
    """Of every mask of a padded right end whose content leaks, be it zeros that few more keep."""
    by = _strides(experiment.subject.model)
    if not 1 < by <= MOST or experiment.is_random:
        return
    done = set[str]()
    for each, _ in leaks(experiment):
        if each.keep.ndim == 2 and each.mask.side == "right" and each.mask.key not in done:
            try:
                found = _of(experiment, each, by)
            except ExperimentError:
                continue
            if found is not None:
                done.add(each.mask.key)
                yield found


def _strides(model: nn.Module) -> int:
    """The product of all strides of convolutions and poolings along one axis."""
    return prod(max(_stride(each)) for each in model.modules())


def _stride(module: nn.Module) -> tuple[int, ...]:
    if not isinstance(module, (_ConvNd, _MaxPoolNd, _AvgPoolNd)):
        return (1,)
    stride: int | tuple[int, ...] = module.stride  # type: ignore[assignment]  # torch's is wider
    return stride if isinstance(stride, tuple) else (stride,)


def _of(experiment: Experiment, each: Hidden, by: int) -> Strided | None:
    padded = ((~each.keep).sum(1) >= by).cpu()
    more = next((m for m in longer(experiment, by) if m.each.mask.key == each.mask.key), None)
    if more is None or not bool(padded.any()):
        return None
    batch = with_leaf(experiment.batch, each.mask.key, _shown(experiment, each))
    shown, grown = experiment.evaluate(batch), experiment.evaluate(more.batch)
    for name in _pooled(experiment):
        moved = _moved(experiment, name, grown)
        rows = padded & (_moved(experiment, name, shown) == 0).cpu() & (moved > 0).cpu()
        if bool(rows.any()):
            samples, largest = rows.nonzero().flatten().tolist(), float(moved.cpu()[rows].max())
            return Strided(each, by, tuple(samples), int(padded.sum()), largest, name)
    return None


def _shown(experiment: Experiment, each: Hidden) -> Tensor:
    """The mask with every position shown."""
    values = experiment.tensors[each.mask.key]
    if each.mask.means == "length":
        return torch.full_like(values, each.keep.shape[1])
    return torch.full_like(values, int(each.mask.means == "keep"))


def _pooled(experiment: Experiment) -> Iterator[str]:
    """Outputs of one vector or number a sample."""
    for name, axis in experiment.sample_axis.items():
        if axis == 0 and experiment.outputs[name].ndim <= 2:
            yield name


def _moved(experiment: Experiment, name: str, ran: Ran) -> Tensor:
    """(sample,) how much of the output's size it has moved; 0 where that is noise or rounding."""
    before, after = experiment.outputs[name], ran.outputs.get(name)
    if after is None or after.shape != before.shape:
        raise ExperimentError(f"`{name}` has another shape")
    size = scale(before)
    limit = max(
        NOISES * experiment.evaluated.noise,
        max(experiment.evaluated.ran.rounding, ran.rounding) * size,
    )
    apart = (after.double() - before.double()).abs().flatten(1).amax(1)
    return torch.where(apart > limit, apart / max(size, 1e-30), torch.zeros_like(apart))
