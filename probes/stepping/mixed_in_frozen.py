"""A frozen part in training mode, of which a sample's features hang on the others of its batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from probes.batch import leaves, map_leaves, sample_axes
from probes.bus import Kind
from probes.execution import Ran
from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.reading.rows import BATCHES
from probes.subject import Batch


@dataclass(frozen=True, slots=True)
class Mixed:
    """part: what is frozen. reader: what learns from its features. others: beside a sample.

    share: by how much a sample's features change with other samples beside it, of how much they
    differ between samples.
    """

    part: str
    reader: str
    share: float
    others: int


def mixed(experiment: Experiment, buffer: str) -> Mixed | None:
    """Of the frozen part that keeps the buffer; None where training mode may be meant there.

    So it may be where some of its modules are in evaluation mode and the batch norms are not;
    where these have seen no data yet; where it is a copy of what learns, or moves itself; where the
    optimizer holds it, to thaw it later; and where no layer that learns reads it, as of a teacher.
    """
    model = experiment.subject.model
    part = _outermost(model, buffer)
    if part is None or not _is_left(experiment, part):
        return None
    if experiment.uncut is not None:
        experiment = experiment.of_batch(experiment.uncut)
    other, half = _beside(experiment), experiment.size // 2
    if other is None or half < 1:
        return None
    frozen = model.get_submodule(part)
    try:
        trained = experiment.trained
        before, after = _given(trained.ran, part), _given(trained.run(other), part)
        ran = trained.run(experiment.batch, before=lambda: _still(frozen))
    except ExperimentError:
        return None
    if before is None or after is None or before.shape != after.shape:
        return None
    learning = set(_learning(model))
    read = (one for one in trained.against(ran).sites if one.kind is Kind.INPUT)
    reader = next((one.module for one in read if one.module in learning), None)
    spread = (before - before.mean(0)).square().mean().sqrt()
    if reader is None or len(before) != experiment.size or not bool(spread > 0):
        return None
    change = (after - before)[:half].square().mean().sqrt()
    return Mixed(part, reader, float(change / spread), experiment.size - 1)


def _outermost(model: nn.Module, buffer: str) -> str | None:
    """The largest module around the buffer of which no parameter learns; not the whole model."""
    names = buffer.split(".")[:-1]
    for end in range(1, len(names) + 1):
        part = ".".join(names[:end])
        own = list(model.get_submodule(part).parameters())
        if own and not any(p.requires_grad for p in own):
            return part
    return None


def _is_left(experiment: Experiment, part: str) -> bool:
    """Whether it is trained before, stays as it is, and is in training mode as everything is."""
    model, stepped = experiment.subject.model, experiment.stepped
    frozen = model.get_submodule(part)
    names = [name for name, _ in model.named_parameters() if name.startswith(f"{part}.")]
    norms = [each for each in frozen.modules() if isinstance(each, _BatchNorm)]
    tables = [p.shape for p in frozen.parameters() if p.ndim > 1]
    learns = [p.shape for p in model.parameters() if p.requires_grad and p.ndim > 1]
    return (
        all(module.training for module in frozen.modules())
        and all(map(_has_seen, norms))
        and not any(name in stepped.moved or name in stepped.rates for name in names)
        and bool(tables)
        and not all(shape in learns for shape in tables)
    )


def _has_seen(norm: _BatchNorm) -> bool:
    """Whether its statistics are of data, and not those that it begins with."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is None or variance is None or bool(mean.any()) or bool((variance != 1).any())


def _beside(experiment: Experiment) -> Batch | None:
    """The batch, of which the second half of the samples are another batch's; None without one."""
    axes, half = sample_axes(experiment.batch, experiment.layout), experiment.size // 2
    own = experiment.tensors
    for _, batch in zip(range(BATCHES), experiment.subject.batches, strict=False):
        found = {path: each for path, each in leaves(batch).items() if isinstance(each, Tensor)}
        shapes = {path: tensor.shape for path, tensor in found.items()}
        differ = any(not torch.equal(found[path], own[path]) for path in own if path in found)
        if shapes == {path: tensor.shape for path, tensor in own.items()} and differ:
            halves = {
                path: torch.cat([own[path][:half], found[path][half:]])
                for path, axis in axes.items()
                if path in own and axis == 0
            }
            return map_leaves(experiment.batch, partial(_put, halves))
    return None


def _put(others: Mapping[str, Tensor], path: str, leaf: Any) -> Any:
    return others.get(path, leaf)


def _given(ran: Ran, part: str) -> Tensor | None:
    """What the first call of the part gave."""
    for event in ran.events:
        if event.module == part and event.kind is Kind.OUTPUT and event.value is not None:
            return event.value.double() if event.value.is_floating_point() else None
    return None


def _still(module: nn.Module) -> None:
    module.eval()


def _learning(model: nn.Module) -> Iterator[str]:
    """Modules that have parameters of their own that learn."""
    for name, module in model.named_modules():
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            yield name
