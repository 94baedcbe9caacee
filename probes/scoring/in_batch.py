"""Whose column a loss over pairs within the batch asks for: of two inputs that belong together."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.experiment import LOSS, Experiment
from probes.finding import ExperimentError
from probes.reading.alive import alive
from probes.scoring.positives import (
    Scored,
    Strangers,
    moves,
    other_sample,
    owners,
    seen_scores,
)


def in_batch(experiment: Experiment) -> Strangers | None:
    """The first scores of pairs whose rows ask for the columns of other samples.

    Rows move with one key of a sample, and columns with another of its keys: what they hold
    belongs together. The columns that are asked for are counted, and not looked up in the batch.
    """
    n, loss = experiment.size, experiment.evaluated.ran.outputs.get(LOSS)
    if n < 3 or loss is None or not any(_counts(c.labels) for c in alive(experiment).classed):
        return None
    before = seen_scores(experiment, experiment.batch)
    wanted = [i for i, each in enumerate(before) if _fits(experiment, each)]
    if not wanted:
        return None
    try:
        changed = [
            seen_scores(experiment, other_sample(experiment, k, experiment.targets))
            for k in range(n)
        ]
    except ExperimentError:
        return None
    if any(len(each) != len(before) for each in changed):
        return None
    for i in wanted:
        found = _strangers(before[i], [each[i] for each in changed], n)
        if found is not None and _has_two_sides(experiment, before[i], i, found.sample):
            return found
    return None


def _fits(experiment: Experiment, each: Scored) -> bool:
    """Of the samples' rows and columns, with other columns asked for, one after the other."""
    n, (rows, columns) = experiment.size, each.scores.shape
    if not columns or rows % n or columns < n or len(each.picked) != rows:
        return False
    return _counts(each.picked)


def _counts(picked: Tensor) -> bool:
    """Whether it is so many more from row to row, around the end of the columns or of a sample."""
    if picked.ndim != 1:
        return False
    steps = (picked[1:] - picked[:-1]).unique()
    return len(steps) in (1, 2) and bool(steps.any())


def _strangers(base: Scored, changed: list[Scored], n: int) -> Strangers | None:
    if any(not torch.equal(each.picked, base.picked) for each in changed):
        return None  # what is asked for is made from the inputs
    rows, columns = owners(base, changed, 1), owners(base, changed, 0)
    share = len(rows) // n
    partners = columns[base.picked.clamp(0, len(columns) - 1)]
    known = all(int((rows == i).sum()) == share and bool((columns == i).any()) for i in range(n))
    away = (partners != rows).nonzero().flatten().tolist()
    if not known or bool((partners < 0).any()) or 2 * len(away) <= len(rows):
        return None
    first = away[0]
    return Strangers(first, int(rows[first]), int(partners[first]), len(away), base.source)


def _has_two_sides(experiment: Experiment, before: Scored, i: int, sample: int) -> bool:
    """Whether one key of the sample moves nothing but rows, and another nothing but columns."""
    sides = set()
    for key in experiment.tensors:
        try:
            batch = other_sample(experiment, sample, {*experiment.tensors} - {key})
            after = seen_scores(experiment, batch)[i]
        except (ExperimentError, IndexError):
            continue
        if key in experiment.targets or after.scores.shape != before.scores.shape:
            continue
        change = moves(before, after)
        lines = [bool((change.float().mean(axis) > 0.9).any()) for axis in (1, 0)]
        sides.add({(True, False): "rows", (False, True): "columns"}.get((lines[0], lines[1]), ""))
    return {"rows", "columns"} <= sides
