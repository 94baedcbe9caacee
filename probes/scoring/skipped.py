"""Ids that no output is asked for: between the last one that it reads and the one it is to give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.layout import Labels
from probes.reading.alive import alive
from probes.scoring.answers import lines_of
from probes.scoring.fed_target import ROUNDING, moved
from probes.scoring.wanted import SHARE, Wanted, aheads, asked, wanted
from probes.vary import vary


@dataclass(frozen=True)
class Skipped:
    """An output is asked for the id so many places after the last one of the key that it reads."""

    key: str
    output: str
    ahead: int

    @property
    def line(self) -> str:
        """How to say that it is meant so."""
        return f"labels=({Labels(self.key, self.output, shift=self.ahead)!r},)"


def skipped(experiment: Experiment) -> list[Skipped]:
    """Of every output that reads a key of ids up to its place and is asked for one of them."""
    if "skipped" not in experiment.memo:
        experiment.memo["skipped"] = list(_all(experiment))
    found: list[Skipped] = experiment.memo["skipped"]
    return found


def _all(experiment: Experiment) -> Iterator[Skipped]:
    known = set[str]()
    for each in wanted(experiment):
        known.add(each.key)
        if each.ahead is not None and each.ahead > 0:
            yield from _held(experiment, each, _behind(experiment, each))
    if experiment.subject.predict is not None:
        for key in [key for key in experiment.tensors if key not in known]:
            yield from _in_loss(experiment, key)


def _held(experiment: Experiment, each: Wanted, behind: int | None) -> Iterator[Skipped]:
    ahead = each.ahead
    if ahead is None or behind is None or behind < 0 or ahead + behind < 2:
        return
    if not _has_other(experiment, each, 1 - behind):
        yield Skipped(each.key, each.output, ahead + behind)


def _in_loss(experiment: Experiment, key: str) -> Iterator[Skipped]:
    """Of what the loss alone makes of the key, as where `predict` writes by itself."""
    ids = experiment.tensors[key]
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype is torch.bool or ids.numel() < 8:
        return
    for width in (ids.shape[1], ids.shape[1] - 1):
        try:
            found = asked(experiment, (len(ids), width), int(ids.max()))
            if found is None:
                continue
            each = found.wants(key, alive(experiment).shown[found.index].site, ids)
            if each.ahead is None or each.ahead < 1:
                return
            change = moved(experiment, key, found.index, width // 2)
        except ExperimentError:
            return
        lines = None if change is None else lines_of(change, (len(ids), width))
        if lines is not None:
            yield from _held(experiment, each, _first(lines, float(lines.max())))
        return


def _behind(experiment: Experiment, each: Wanted) -> int | None:
    """How many places after an id the first output stands that moves with it; None without one."""
    only = torch.zeros_like(each.ids, dtype=torch.bool)
    middle = each.asked.shape[1] // 2
    only[:, middle] = True
    other = vary(each.ids, only)
    if other is None:
        return None
    try:
        ran = experiment.evaluate(with_leaf(experiment.batch, each.key, other)).outputs
    except ExperimentError:
        return None
    before, after = (
        None if value is None else lines_of(value, tuple(each.asked.shape))
        for value in (experiment.outputs[each.output], ran.get(each.output))
    )
    if before is None or after is None or before.shape != after.shape:
        return None
    return _first((after - before).abs(), float(before.nan_to_num(0, 0, 0).abs().max()))


def _first(change: Tensor, size: float) -> int | None:
    """How many places after the middle the first change stands; None without one.

    change: (sample, place, class), of numbers of about that size.
    """
    felt = (change.amax((0, 2)) > ROUNDING * size).nonzero().flatten()
    return int(felt[0]) - change.shape[1] // 2 if len(felt) else None


def _has_other(experiment: Experiment, each: Wanted, right: int) -> bool:
    """Whether another head is asked for the id that is skipped."""
    seen, (count, width) = alive(experiment), each.asked.shape
    fits = [o.tensor for o in seen.shown if lines_of(o.tensor, (count, width)) is not None]
    return any(
        grad is not None and aheads(grad, each.ids, width).get(right, 0.0) >= SHARE
        for grad in seen.of_loss(fits)
    )
