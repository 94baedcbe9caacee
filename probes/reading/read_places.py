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
        felt = felt.to(ids.device)
        visible = torch.ones_like(ids, dtype=torch.bool)
        for each in experiment.masks:
            if each.key == key:
                visible &= each.keep.reshape([*each.keep.shape, *[1] * (ids.ndim - each.keep.ndim)])
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
    if "felt" not in experiment.memo:
        experiment.memo["felt"] = _measured(experiment, alive(experiment))
    size = torch.Size(shape).numel()
    found: list[Tensor] = [each for each in experiment.memo["felt"] if each.numel() == size]
    return torch.stack(found).any(0).reshape(shape) if found else None


def _measured(experiment: Experiment, seen: Alive) -> list[Tensor]:
    """(place,) of each output of an embedding: whether the loss or an output has its gradient."""
    modules = dict(experiment.subject.model.named_modules())
    read = [
        each.tensor
        for each in seen.shown
        if each.kind is Kind.OUTPUT
        and isinstance(modules.get(each.module), nn.Embedding)
        and each.tensor.ndim > 1
    ]
    felt = [torch.zeros(each.shape[:-1].numel(), dtype=torch.bool, device="cpu") for each in read]
    if not read:
        return []
    values = [each.tensor for each in seen.given] + [seen.loss] * seen.loss.requires_grad
    for value in values:
        weights = torch.linspace(0.5, 1.5, value.numel(), device=value.device).cos() + 0.3
        grads = gradients((value.flatten() * weights.to(value.dtype)).sum(), read)
        for i, grad in enumerate(grads):
            if grad is not None:
                felt[i] |= (grad != 0).any(-1).flatten().cpu()
    return felt
