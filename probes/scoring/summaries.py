"""What early places read of later ones by way of one vector a sample, as variational models do."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.reading.alive import Alive, gradients

LAYERS = 8  # of recurrent states, at most
NEAR = 6  # places more than a vector has numbers: it may hold a number a place


def by_summary(
    experiment: Experiment, seen: Alive, early: Tensor, leaf: Tensor, by: int = 0
) -> bool | None:
    """Whether what early places read of what comes later comes by one vector a sample alone.

    early: (sample, place, ...) the first places of an output. leaf: (sample, place, ...) what is
    read, later from `by` places after the last early one on. None where nothing later is read.
    """
    weights = torch.linspace(0.5, 1.5, early.numel(), dtype=early.dtype, device=early.device)
    value, later = (early * weights.view_as(early)).sum(), early.shape[1] + by
    whole = gradients(value, [leaf])[0]
    if whole is None or not bool(whole[:, later:].any()):
        return None
    vectors = [one.tensor for one in seen.shown if _is_vector(experiment, one.tensor, leaf)]
    grads = gradients(value, vectors) if vectors else []
    for vector, grad in zip(vectors, grads, strict=True):
        way = None if grad is None else gradients((vector * grad).sum(), [leaf])[0]
        if way is not None and torch.allclose(way[:, later:], whole[:, later:], 1e-3, 1e-8):
            return True
    return False


def _is_vector(experiment: Experiment, tensor: Tensor, leaf: Tensor) -> bool:
    """(sample, feature), or (layer, sample, feature) as the state of a recurrent layer is.

    As many features as there are places, or nearly, may be numbers by place.
    """
    if tensor.ndim == 3 and tensor.shape[0] <= LAYERS:
        return tensor.shape[1] == experiment.size != tensor.shape[0]
    plain = tensor.ndim == 2 and len(tensor) == experiment.size
    return plain and not 0 <= leaf.shape[1] - tensor.shape[1] <= NEAR
