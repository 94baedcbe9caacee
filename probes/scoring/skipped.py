"""Ids that no output is asked for: between the last one that it reads and the one it is to give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.layout import Labels
from probes.reading.alive import alive
from probes.scoring.answers import lines_of
from probes.scoring.wanted import SHARE, Wanted, aheads, wanted
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
    config = getattr(experiment.subject.model, "config", None)
    least = 1 if getattr(config, "is_encoder_decoder", False) else 2  # these read labels, shifted
    for each in wanted(experiment):
        if each.ahead is None or each.ahead < least:
            continue
        behind = _behind(experiment, each)
        if behind is None or behind < 0 or each.ahead + behind < 2:
            continue
        if not _has_other(experiment, each, 1 - behind):
            yield Skipped(each.key, each.output, each.ahead + behind)


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
    moved = (after - before).abs().amax((0, 2))
    places = (moved > 1e-5 * float(before.nan_to_num(0, 0, 0).abs().max())).nonzero().flatten()
    return int(places[0]) - middle if len(places) else None


def _has_other(experiment: Experiment, each: Wanted, right: int) -> bool:
    """Whether another head is asked for the id that is skipped."""
    seen, (count, width) = alive(experiment), each.asked.shape
    fits = [o.tensor for o in seen.shown if lines_of(o.tensor, (count, width)) is not None]
    return any(
        grad is not None and aheads(grad, each.ids, width).get(right, 0.0) >= SHARE
        for grad in seen.of_loss(fits)
    )
