"""Batches whose keys hold other values where they are visible, and whose masks hide more."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.batch import leaves
from probes.experiment import Experiment, with_leaf
from probes.layout import Mask
from probes.subject import Batch
from probes.vary import vary


def changed(experiment: Experiment, key: str) -> Batch | None:
    """The batch with other values under the key; None where there are no others."""
    tensor = experiment.tensors[key]
    mask = next((m for m in experiment.layout.masks if m.key == key and m.means != "id"), None)
    if mask is not None:
        other = _hides_more(mask, tensor)
    else:
        keeps = [each.keep for each in experiment.masks if each.key == key]
        where = torch.ones((), dtype=torch.bool, device=tensor.device)
        other = vary(tensor, _visible(keeps, where, tensor))
    return None if other is None else with_leaf(experiment.batch, key, other)


def _visible(keeps: list[Tensor], where: Tensor, tensor: Tensor) -> Tensor:
    for keep in keeps:
        seen = keep.reshape([*keep.shape, *[1] * (tensor.ndim - keep.ndim)])
        where = where & seen
    return where.expand(tensor.shape)


def _hides_more(mask: Mask, tensor: Tensor) -> Tensor | None:
    """The mask with the outermost visible position of each row hidden; at least one stays."""
    if mask.means == "length":
        return torch.where(tensor > 1, tensor - 1, tensor) if bool((tensor > 1).any()) else None
    keep = (tensor != 0) == (mask.means == "keep")
    flat = keep.reshape(-1, keep.shape[-1])
    order = torch.arange(1, flat.shape[1] + 1, device=flat.device)
    at = (flat * (order if mask.side == "right" else order.flip(0))).argmax(1)
    rows = flat.sum(1) > 1
    if not bool(rows.any()):
        return None
    out = tensor.clone().reshape(-1, keep.shape[-1])
    out[rows.nonzero().flatten(), at[rows]] = 0 if mask.means == "keep" else 1
    return out.view(tensor.shape)


def all_changed(experiment: Experiment, keys: list[str]) -> Batch:
    """The batch with other values in all these keys."""
    other = experiment.batch
    for key in keys:
        other = with_leaf(other, key, leaves(changed(experiment, key))[key])
    return other
