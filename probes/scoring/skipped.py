"""How far after the last id that an output reads the one stands that it is to give, if not next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.layout import Labels
from probes.reading.alive import alive
from probes.scoring.answers import lines_of
from probes.scoring.fed_target import ROUNDING, moved
from probes.scoring.read_before import Felt, read_before
from probes.scoring.wanted import SHARE, Wanted, aheads, asked, wanted
from probes.vary import vary


@dataclass(frozen=True)
class Skipped:
    """An output is asked for the id so many places after the last one of the key that it reads.

    ahead: 2 or more where ids between are asked for nowhere; 0 or less where it has read the id.
    """

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
        yield from _held(experiment, each, partial(_of_output, experiment, each))
    if experiment.subject.predict is not None:
        for key in [key for key in experiment.tensors if key not in known]:
            yield from _in_loss(experiment, key)


def _held(experiment: Experiment, each: Wanted, felt: Felt) -> Iterator[Skipped]:
    ahead, middle = each.ahead, each.asked.shape[1] // 2
    moved = None if ahead is None else felt(middle)
    if ahead is None or moved is None or not bool(moved.any()):
        return
    behind = int(moved.nonzero()[0]) - middle
    total = ahead + behind
    later = total > 1 and ahead > 0 and behind >= 0
    if not later and (total > 0 or not read_before(experiment, each, ahead, behind, felt)):
        return
    if not _has_other(experiment, each, 1 - behind):
        yield Skipped(each.key, each.output, total)


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
            yield from _held(experiment, each, partial(_of_shown, experiment, each, found.index))
        except ExperimentError:
            pass
        return


def _of_output(experiment: Experiment, each: Wanted, place: int) -> Tensor | None:
    """(place of the output,) which move with other content at one place of the key."""
    only = torch.zeros_like(each.ids, dtype=torch.bool)
    only[:, place] = True
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
    return _felt((after - before).abs(), float(before.nan_to_num(0, 0, 0).abs().max()))


def _of_shown(experiment: Experiment, each: Wanted, index: int, place: int) -> Tensor | None:
    """The same of the tensor that the loss was shown at that index."""
    change = moved(experiment, each.key, index, place)
    lines = None if change is None else lines_of(change, tuple(each.asked.shape))
    return None if lines is None else _felt(lines, float(lines.max()))


def _felt(change: Tensor, size: float) -> Tensor:
    """change: (sample, place, class), of numbers of about that size."""
    return change.amax((0, 2)) > ROUNDING * size


def _has_other(experiment: Experiment, each: Wanted, right: int) -> bool:
    """Whether another head is asked for the id that is skipped."""
    seen, (count, width) = alive(experiment), each.asked.shape
    fits = [o.tensor for o in seen.shown if lines_of(o.tensor, (count, width)) is not None]
    return any(
        grad is not None and aheads(grad, each.ids, width).get(right, 0.0) >= SHARE
        for grad in seen.of_loss(fits)
    )
