"""Answers that are sought between places of a sequence, one piece of which holds their passage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.reading.alive import alive
from probes.reading.asked import is_ids
from probes.reading.rows import looked

REACH = 2  # places by which answers may lie before their own


@dataclass(frozen=True, slots=True)
class Ahead:
    """Answers that are scored so many places before those of their passage that keys name.

    start, end: keys of the first and last place. passage: the key whose ids stand from place
    `begins` on; moved: what is added to the keys. count: answers that begin before the passage
    and end in it, of `of`. line: of the loss.
    """

    start: str
    end: str
    passage: str
    begins: int
    moved: int
    count: int
    of: int
    line: str | None

    @property
    def by(self) -> int:
        """How many places too early they are scored."""
        return self.begins - self.moved


@dataclass(frozen=True, slots=True)
class Sought:
    """A key, one place a sample, that is scored among so many places once `moved` is added."""

    key: str
    moved: int
    places: int
    line: str | None


def ahead(experiment: Experiment) -> Ahead | None:
    """Answers some of which begin before their passage and end within it; None where none do.

    That cannot be meant: where there is no answer, both its ends stand before the passage.
    """
    for one, two in permutations(sought(experiment), 2):
        if one.key == two.key or (one.moved, one.places) != (two.moved, two.places):
            continue
        for passage, begins in _passages(experiment, one.places):
            width = experiment.tensors[passage].shape[1]
            if 0 < begins - one.moved <= REACH:
                count, of = _counted(experiment, one.key, two.key, width, begins - one.moved)
                if count:
                    return Ahead(one.key, two.key, passage, begins, one.moved, count, of, one.line)
    return None


def sought(experiment: Experiment) -> Iterator[Sought]:
    """What the loss asks for among places, where it is a key moved by one number."""
    keys = {key: t for key, t in experiment.tensors.items() if is_ids(t) and t.ndim == 1}
    for each in alive(experiment).classed if keys else ():
        if each.labels.ndim != 1 or len(each.labels) != experiment.size:
            continue
        for key, tensor in keys.items():
            steps = (each.labels.cpu() - tensor.cpu()).unique()
            if len(steps) == 1 and len(torch.unique(tensor)) > 1:
                yield Sought(key, int(steps), each.scores.shape[-1], each.line)


def _passages(experiment: Experiment, places: int) -> Iterator[tuple[str, int]]:
    """Keys of ids that stand as a whole in what is looked up, and from which place on."""
    for pick in alive(experiment).looked_up:
        index = pick.index
        if tuple(index.shape) != (experiment.size, places):
            continue
        for key, ids in experiment.tensors.items():
            if not is_ids(ids) or ids.ndim != 2 or len(ids) != len(index):
                continue
            at = _stands(ids, index)
            if at is not None:
                yield key, at


def _stands(ids: Tensor, index: Tensor) -> int | None:
    """The one place where the ids begin; None where it is not one."""
    width = ids.shape[1]
    spare = range(index.shape[1] - width + 1)
    found = [i for i in spare if torch.equal(index[:, i : i + width], ids.to(index.dtype))]
    return found[0] if len(found) == 1 else None


def _counted(experiment: Experiment, start: str, end: str, width: int, by: int) -> tuple[int, int]:
    """Answers that begin before the passage and end in it, of all; 0 where they are no spans.

    width: of the passage, which they must lie within, as counted from its first. One of them must
    be of one place: ends that are exclusive may be scored as borders between places.
    """
    count = of = single = 0
    for batch in looked(experiment):
        if start in batch and end in batch and batch[start].shape == batch[end].shape:
            first, last = batch[start], batch[end]
            if bool(((first > last) | (first < 0) | (last >= width)).any()):
                return 0, 0
            count += int(((first < by) & (last >= by)).sum())
            of += first.numel()
            single += int((first == last).sum())
    return (count, of) if single else (0, 0)
