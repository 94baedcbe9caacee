"""A sequence that is read as far as the lengths of another one say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.compare import NOISES, everywhere
from probes.experiment import Experiment, with_leaf
from probes.masking.hidden import Hidden
from probes.masking.visible import differ
from probes.vary import vary

FEWEST = 2  # rows that are cut short, and lengths that they are cut to


@dataclass(frozen=True, slots=True)
class OfAnother:
    """each: what the key's own lengths hide. other: the key of lengths that it is cut by.

    row, read: a sample, and how many of its places are read. cut: visible places that nobody reads.
    """

    each: Hidden
    other: str
    row: int
    read: int
    cut: int


def of_another(experiment: Experiment) -> Iterator[OfAnother]:
    """At most one a key that has lengths of its own, beside those of another key.

    In each of the rows whose own length is the larger, other content from the other length on moves
    nothing, and other content at the place before it does. Raises ExperimentError.
    """
    lengths = [mask for mask in experiment.layout.masks if mask.means == "length"]
    for each in experiment.masks:
        if each.mask.means != "length" or each.keep.ndim != 2:
            continue
        for other in lengths:
            if other.key != each.mask.key and each.key not in other.hides:
                found = _cut_by(experiment, each, other.key)
                if found is not None:
                    yield found
                    break


def _cut_by(experiment: Experiment, each: Hidden, other: str) -> OfAnother | None:
    width = each.keep.shape[1]
    own, ends = each.keep.sum(1), experiment.tensors[other].to(each.keep.device)
    if ends.shape != own.shape:
        return None
    short = (ends < own) & (ends > 0)
    rows = short.nonzero().flatten().tolist()
    if len(rows) < FEWEST or len(ends[short].unique()) < FEWEST:
        return None
    places = torch.arange(width, device=each.keep.device)
    beyond = short[:, None] & (places >= ends[:, None]) & each.keep
    if _moves(experiment, each.key, beyond) is not False:
        return None
    for row in rows:
        last = torch.zeros_like(beyond)
        last[row, int(ends[row]) - 1] = True
        if not _moves(experiment, each.key, last):
            return None
    return OfAnother(each, other, rows[0], int(ends[rows[0]]), int(beyond.sum()))


def _moves(experiment: Experiment, key: str, where: Tensor) -> bool | None:
    """Whether anything moves with other content there; None where there is no other."""
    tensor = experiment.tensors[key]
    varied = vary(tensor, where)
    if varied is None or torch.equal(varied, tensor):
        return None
    ran = experiment.evaluate(with_leaf(experiment.batch, key, varied))
    before = experiment.evaluated
    return bool(differ(before.ran, ran, everywhere, NOISES * before.noise))
