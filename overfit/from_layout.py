"""Counts right answers where a layout says which labels an output is scored against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probes.batch import leaves
from probes.errors import RequestError
from probes.layout import Labels, Layout
from probes.subject import Batch, Ratio

Predict = Callable[[nn.Module, Batch], Tensor | Mapping[str, Tensor]]


def accuracy_of(
    labels: Labels, layout: Layout, predict: Predict
) -> Callable[[nn.Module, Batch], Ratio]:
    """A metric: how many positions of the output have their largest score at the label."""

    def accuracy(model: nn.Module, batch: Batch) -> Ratio:
        answers = predict(model, batch)
        target = leaf_of(batch, labels.key)
        chosen = _chosen(_output(answers, labels), target, labels)
        counted = counted_labels(target, batch, labels, layout)
        time = 1 if target.ndim > 1 else 0
        chosen, target, counted = _shifted(labels.shift, time, chosen, target, counted)
        return Ratio(((chosen == target) & counted).sum(), counted.sum())

    return accuracy


def leaf_of(batch: Batch, key: str) -> Tensor:
    """The tensor under the key. Raises RequestError where there is none."""
    found = leaves(batch)
    if not isinstance(found.get(key), Tensor):
        raise RequestError(
            f"`Layout` names the batch key `{key}`, but a batch holds tensors at "
            f"{', '.join(path for path, leaf in found.items() if isinstance(leaf, Tensor))}."
        )
    leaf: Tensor = found[key]
    return leaf


def _output(answers: Tensor | Mapping[str, Tensor], labels: Labels) -> Tensor:
    if isinstance(answers, Tensor):
        return answers
    if labels.output not in answers:
        raise RequestError(
            f"`Labels(key={labels.key!r})` names the output `{labels.output}`, but "
            f"`Subject.predict` returned {', '.join(answers)}."
        )
    return answers[labels.output]


def _chosen(scores: Tensor, target: Tensor, labels: Labels) -> Tensor:
    """The class of the largest score at each position of the output.

    Positions may be more or fewer than labels where the classes stand last.
    """
    if scores.ndim == target.ndim + 1:
        second = (scores.shape[0], *scores.shape[2:])
        if second == target.shape != scores.shape[:-1]:
            return scores.argmax(1)  # (sample, class, ...) -> (sample, ...)
        if _but_for_length(scores.shape[:-1]) == _but_for_length(target.shape):
            return scores.argmax(-1)  # (sample, ..., class) -> (sample, ...)
    raise RequestError(
        f"the output `{labels.output}` has shape {tuple(scores.shape)}, but scores of classes "
        f"for labels `{labels.key}` of shape {tuple(target.shape)} have one axis more: correct "
        "`Layout.labels`, or give `Subject.metrics`."
    )


def _but_for_length(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without the axis of positions, which is the second."""
    return (*shape[:1], *shape[2:])


def counted_labels(target: Tensor, batch: Batch, labels: Labels, layout: Layout) -> Tensor:
    """True at the label positions that are scored."""
    counted = torch.ones_like(target, dtype=torch.bool)
    if labels.ignore is not None:
        counted &= target != labels.ignore
    if labels.mask is None:
        return counted
    mask = leaf_of(batch, labels.mask)
    means: Any = {each.key: each.means for each in layout.masks}.get(labels.mask, "keep")
    if means == "length":  # (sample,) -> (sample, position)
        return counted & (torch.arange(target.shape[1], device=mask.device) < mask[:, None])
    visible = mask == 0 if means == "hide" else mask != 0
    return counted & visible


def _shifted(shift: int, axis: int, chosen: Tensor, *scored: Tensor) -> tuple[Tensor, ...]:
    """Output position p beside label position p + shift; what has no partner is left out."""
    first = max(0, -shift)
    last = min(chosen.shape[axis], scored[0].shape[axis] - shift)
    length = max(0, last - first)
    return (
        chosen.narrow(axis, first, length),
        *(each.narrow(axis, first + shift, length) for each in scored),
    )
