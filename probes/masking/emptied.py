"""Rows of a mask made to hide everything, or to hide something less than that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.layout import Labels, Mask
from probes.subject import Batch


def may_be_empty(experiment: Experiment) -> list[Mask]:
    """The masks of the batch that are declared to, but for those that are the content."""
    return [
        mask
        for mask in experiment.declared.masks
        if mask.may_be_empty and mask.key in experiment.tensors and mask.means != "id"
    ]


def opened(experiment: Experiment, masks: Sequence[Mask]) -> Batch:
    """The batch with one position visible in every row that these masks hide altogether."""
    batch = experiment.batch
    for mask in masks:
        values = experiment.tensors[mask.key].clone()
        if mask.means == "length":
            values = values.clamp(min=1)
        else:
            shown = (values != 0) == (mask.means == "keep")
            end = -1 if mask.side == "left" else 0
            first = values.reshape(-1, values.shape[-1])[:, end]
            first[~shown.flatten(0, -2).any(-1)] = int(mask.means == "keep")
        batch = with_leaf(batch, mask.key, values)
    return batch


def emptied(experiment: Experiment, masks: Sequence[Mask]) -> Experiment:
    """Every second row of these masks hides everything; labels that stand there are ignored.

    Masks of labels hide the other rows, so that the outputs of the first stay visible; a mask of
    labels that know no ignored value is left as it is.
    """
    batch = experiment.batch
    for mask in masks:
        labels = _labels(experiment, mask)
        if any(each.ignore is None for each in labels):
            continue
        values = experiment.tensors[mask.key].clone()
        rows = _second(values if mask.means == "length" else values[..., 0], int(bool(labels)))
        values[rows] = 0 if mask.means in ("keep", "length") else 1
        batch = with_leaf(batch, mask.key, values)
        for each in labels:
            batch = with_leaf(batch, each.key, _ignored(experiment, each, rows))
    return experiment.of_batch(batch)


def _labels(experiment: Experiment, mask: Mask) -> list[Labels]:
    return [
        each
        for each in experiment.layout.labels
        if each.key in experiment.tensors and (each.key in mask.hides or each.mask == mask.key)
    ]


def _second(rows: Tensor, first: int) -> Tensor:
    places = torch.arange(rows.numel(), device=rows.device).view_as(rows)
    return places % 2 == first


def _ignored(experiment: Experiment, labels: Labels, rows: Tensor) -> Tensor:
    values = experiment.tensors[labels.key].clone()
    assert labels.ignore is not None
    values[rows] = labels.ignore
    return values
