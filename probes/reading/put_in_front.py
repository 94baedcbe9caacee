"""Units that read one row too early, since places do not count what the model puts in front."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import torch

from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.reading.alive import alive
from probes.reading.asked import is_ids
from probes.reading.pointed import Pointed, pointed
from probes.reading.too_early import cut, filler, without_ends

BATCHES = 16  # that are run
FEW = 5  # rows whose units read what is in front
ROWS = 10  # rows of two units or more
NEARLY = 0.95  # of the rows begin with a unit that reads what is in front
CHANCE = 1e-3  # below it, numbers are not by chance
EXPECTED = 10.0  # of each token, how often it is read, where places are by chance


@dataclass(frozen=True, slots=True)
class InFront:
    """Places that do not count what the model puts before the tokens.

    by: rows that all units lie too early; why: what tells. hits: units that read what is in front,
    of `count`; last: units that read the last token of a row; near: those that name it if places
    count tokens alone.
    """

    use: Pointed
    by: int
    why: str
    hits: int
    count: int
    last: int
    near: int


@dataclass(frozen=True, slots=True)
class _Row:
    """What the scored units of one sample read, their labels if any, and how many tokens it has."""

    at: list[int]
    labels: list[int]
    tokens: int


def is_pointed(experiment: Experiment) -> bool:
    """Whether rows are read by places where the model puts something in front."""
    try:
        return experiment.lacks_loss is None and bool(pointed(experiment, alive(experiment)))
    except ExperimentError:
        return False


def put_in_front(experiment: Experiment) -> Iterator[InFront]:
    """At most one for each way in which rows are read by places."""
    if not is_pointed(experiment):
        return
    for use in pointed(experiment, alive(experiment)):
        found = _judged(use, _rows(experiment, use))
        if found is not None:
            yield found


def _judged(use: Pointed, rows: Sequence[_Row]) -> InFront | None:
    """Told by the same places among tokens, by units in order, or by places that are by chance."""
    read = [(each, row.tokens) for row in rows for each in row.at]
    hits = sum(each < use.front for each, _ in read)
    if hits < FEW or (use.again is not None and use.own <= 0):
        return None
    if use.again is not None:
        by, why = use.own, "the same places are taken among the tokens alone"
    else:
        by = use.front - min(each for each, _ in read)
        in_order, by_chance = _in_order(rows, use.front, by), _by_chance(rows, use.front, by)
        if not in_order and not by_chance:
            return None
        why = "nearly all rows begin with such a unit" if in_order else "as often as any token"
    last = sum(each - use.front == tokens - 1 for each, tokens in read)
    near = sum(each - use.front + by == tokens - 1 for each, tokens in read)
    return InFront(use, by, why, hits, len(read), last, near)


def _in_order(rows: Sequence[_Row], front: int, by: int) -> bool:
    """Whether units in order begin with the first row, and end with the last token if moved.

    Then the first unit is like all others, by its labels, and the second one does not always begin
    with the first token, as it would where what is in front is a unit of its own.
    """
    units = [row for row in rows if len(row.at) > 1]
    if len(units) < ROWS or any(b <= a for row in units for a, b in pairwise(row.at)):
        return False
    begin = [row for row in units if row.at[0] == front - by]
    second = sum(row.at[1] == front for row in begin)
    if len(begin) < NEARLY * len(units) or second >= NEARLY * len(begin):
        return False
    ends = [row.tokens - 1 - (row.at[-1] - front + by) for row in units]
    near = sum(each in (0, 1) for each in ends)
    return min(ends) >= 0 and (2 / 3) ** near < CHANCE and _alike(units)


def _alike(rows: Sequence[_Row]) -> bool:
    """Whether first units have labels of more than one class, such as others have as well."""
    if any(len(row.labels) != len(row.at) for row in rows):
        return False
    first = Counter(row.labels[0] for row in rows)
    others = {each for row in rows for each in row.labels[1:]}
    return len(first) > 1 and first.keys() <= others


def _by_chance(rows: Sequence[_Row], front: int, by: int) -> bool:
    """Whether each of as many rows as there are tokens, from the first on, is read as often."""
    widths = {row.tokens for row in rows}
    if len(widths) != 1 or any(len(row.at) < 2 or len({*row.at}) < len(row.at) for row in rows):
        return False
    (width,) = widths
    if all(len(row.at) == width for row in rows):
        return False  # orders of all tokens
    counts = Counter(each - front + by for row in rows for each in row.at)
    mean = counts.total() / width
    if mean < EXPECTED or max(counts) != width - 1:
        return False
    value = sum((counts[place] - mean) ** 2 / mean for place in range(width))
    half = torch.tensor([(width - 1) / 2, value / 2], dtype=torch.float64, device="cpu")
    return float(torch.special.gammaincc(half[0], half[1])) > CHANCE


def _rows(experiment: Experiment, use: Pointed) -> list[_Row]:
    """Of the first batches that can be run."""
    key, ids = _labels(experiment, use), list[list[int]]()
    found = list[_Row]()
    for batch in islice(experiment.subject.batches, BATCHES):
        own = experiment.of_batch(batch)
        try:
            uses = pointed(own, alive(own, batch))
        except ExperimentError:
            continue
        same = [x for x in uses if (x.pick.line, x.key) == (use.pick.line, use.key)]
        for each in same[:1]:
            labels = own.tensors.get(key or "")
            ids += _ids(own, each, key)
            for row, keep in enumerate(each.scored.cpu()):
                told = [] if labels is None else labels[row].cpu()[keep].tolist()
                found.append(_Row(each.at[row].cpu()[keep].tolist(), told, each.width))
    if len(ids) != len(found):
        return found
    counts = map(len, without_ends(ids))
    return [replace(row, tokens=count) for row, count in zip(found, counts, strict=True)]


def _labels(experiment: Experiment, use: Pointed) -> str | None:
    """The key of a class for each unit, if there is one."""
    for key in experiment.targets:
        tensor = experiment.tensors[key]
        whole = not tensor.is_floating_point() and not tensor.is_complex()
        if tensor.shape == use.at.shape and whole and key != use.key:
            return key
    return None


def _ids(experiment: Experiment, use: Pointed, labels: str | None) -> list[list[int]]:
    """The ids of each sample without what fills it up; none where tokens are no ids."""
    shape = (len(use.at), use.width)
    masks = [each.keep for each in experiment.masks if tuple(each.keep.shape) == shape]
    for key, ids in experiment.tensors.items():
        if not is_ids(ids) or tuple(ids.shape) != shape or key == labels:
            continue
        rows: list[list[int]] = ids.tolist()
        if masks and bool(masks[0][:, 0].all()):
            counts = masks[0].sum(1).tolist()
            return [row[:count] for row, count in zip(rows, counts, strict=True)]
        pad = filler(rows)
        return [cut(row, pad) for row in rows]
    return []
