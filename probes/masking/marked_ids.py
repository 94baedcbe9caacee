"""Padding of ids that no key marks and the subject's own code asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.layout import Mask
from probes.masking.as_marked import truths
from probes.masking.hidden import Hidden
from probes.masking.trailing import at_either_end, trailing


def marked_ids(experiment: Experiment) -> list[Hidden]:
    """Keys of ids without a mask whose rows end in one id, where the code asks which ids are that.

    Such as `ids.eq(0)` in the model: some of it hides what stands there, so that all of it should.
    """
    if "marked ids" not in experiment.memo:
        experiment.memo["marked ids"] = list(_marked(experiment))
    known: list[Hidden] = experiment.memo["marked ids"]
    return known


def marked_at_either_end(experiment: Experiment) -> list[Hidden]:
    """The same where the padding may stand on the left."""
    if "marked ids at either end" not in experiment.memo:
        experiment.memo["marked ids at either end"] = list(_marked(experiment, at_either_end))
    known: list[Hidden] = experiment.memo["marked ids at either end"]
    return known


def _marked(
    experiment: Experiment, runs_of: Callable[[Tensor], Tensor | None] = trailing
) -> Iterator[Hidden]:
    masked = {each.key for each in experiment.masks} | {one.key for one in experiment.layout.labels}
    found = {
        key: runs
        for key, tensor in experiment.tensors.items()
        if key not in masked and (runs := runs_of(tensor)) is not None
    }
    try:
        asked = truths(experiment) if found else []
    except ExperimentError:
        return
    for key, runs in found.items():
        if any(_is_of(truth, runs) for truth in asked):
            yield padding_of(key, experiment.tensors[key], runs)


def padding_of(key: str, ids: Tensor, runs: Tensor) -> Hidden:
    """The runs of one id, with the line that would declare them."""
    side: Literal["left", "right"] = "left" if bool(runs[:, 0].any()) else "right"
    mask = Mask(key, (key,), means="id", side=side)
    own = mask if bool((ids[runs] == 0).all()) else Mask("mask", (key,), side=side)
    return Hidden(mask, key, ~runs, None, f"masks=({own!r},)")


def _is_of(truth: Tensor, runs: Tensor) -> bool:
    """Whether it says of every place whether it is padding, or whether it is not."""
    if truth.dtype is not torch.bool or truth.numel() != runs.numel():
        return False
    turned = truth.T if truth.ndim == 2 and truth.shape == runs.T.shape else truth
    laid = (truth.reshape(runs.shape), turned.reshape(runs.shape))
    return any(torch.equal(each, runs) or torch.equal(each, ~runs) for each in laid)
