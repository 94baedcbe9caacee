"""Which places of a key nobody reads: proposed by gradients, and settled by other values there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes.bus import Kind
from probes.compare import NOISES, everywhere
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.masking.visible import differ
from probes.reading.alive import Alive, alive, gradients
from probes.vary import vary


def unread_places(experiment: Experiment, key: str) -> list[int]:
    """Places along the last axis of a key of ids at which other values move nothing at all.

    Those that are visible in some sample, while others are read. A place at which an embedding
    gets no gradient is asked; empty where no embedding of the model is seen to read the key.
    """
    ids = experiment.tensors[key]
    if ids.ndim < 2 or ids.is_floating_point() or ids.dtype is torch.bool or ids.shape[-1] < 2:
        return []
    try:
        felt = _felt(experiment, tuple(ids.shape))
        if felt is None:
            return []
        visible = torch.ones_like(ids, dtype=torch.bool)
        for each in experiment.masks:
            if each.key == key:
                visible &= each.keep.reshape(*each.keep.shape, *[1] * (ids.ndim - each.keep.ndim))
        still = visible.flatten(0, -2).any(0) & ~(felt & visible).flatten(0, -2).any(0)
        if not bool(still.any()) or bool(still.all()):
            return []
        other = vary(ids, still.expand(ids.shape) & visible)
        if other is None:
            return []
        ran = experiment.evaluate(with_leaf(experiment.batch, key, other))
    except ExperimentError:
        return []
    before = experiment.evaluated
    shapes = {name: value.shape for name, value in ran.outputs.items()}
    if any(shapes.get(name) != value.shape for name, value in before.ran.outputs.items()):
        return []
    moves = differ(before.ran, ran, everywhere, NOISES * before.noise)
    return [] if moves else still.nonzero().flatten().tolist()


def _felt(experiment: Experiment, shape: tuple[int, ...]) -> Tensor | None:
    """Of this shape: true where what embeddings give has a gradient; None without any."""
    known = experiment.memo.setdefault("felt", {})
    if shape not in known:
        known[shape] = _measured(experiment, alive(experiment), shape)
    found: Tensor | None = known[shape]
    return found


def _measured(experiment: Experiment, seen: Alive, shape: tuple[int, ...]) -> Tensor | None:
    modules = dict(experiment.subject.model.named_modules())
    size = torch.Size(shape).numel()
    read = [
        each.tensor
        for each in seen.shown
        if each.kind is Kind.OUTPUT
        and isinstance(modules.get(each.module), nn.Embedding)
        and each.tensor.ndim > 1
        and each.tensor.shape[:-1].numel() == size
    ]
    if not read:
        return None
    felt = torch.zeros(shape, dtype=torch.bool, device=read[0].device)
    values = [each.tensor for each in seen.given] + [seen.loss] * seen.loss.requires_grad
    for value in values:
        weights = torch.linspace(0.5, 1.5, value.numel(), device=value.device).cos() + 0.3
        for grad in gradients((value.flatten() * weights.to(value.dtype)).sum(), read):
            if grad is not None:
                felt |= (grad != 0).any(-1).reshape(shape)
    return felt
