"""Labels that a prediction reads at some places and not at others, as a draw decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probes.compare import scale
from probes.execution import glance, named
from probes.experiment import Experiment, attempted, copied, with_leaf
from probes.finding import ExperimentError
from probes.operators.draw_lines import DrawLines, deciding
from probes.replay import RandomState, Snapshot
from probes.scoring.calls import Call, Scoring
from probes.seeding import seed_everything
from probes.subject import Batch
from probes.vary import vary

SEEDS = (11, 12, 13, 14, 15, 16)
OTHERS = (21, 22, 23, 24, 25, 26)  # that one line draws from
LEAST = 4  # places of a sequence
TRIED = 4  # places that are changed one by one
AHEAD = 3  # first places of a key that may have no label
NONE = 1e-6  # of the output: less is no change
MUCH = 1e-3  # of the output, by which a label that is read moves it

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Gold:
    """A label is fed on, or is not, by what is drawn.

    key: of the labels. output: the name of what moves. share: how far the labels move it, of its
    size. read: of the places tried, all samples and seeds, the share that was read. source: the
    line that draws.
    """

    key: str
    output: str
    share: float
    read: float
    source: str | None


def gold_at_random(experiment: Experiment) -> Gold | None:
    """The labels that `predict` reads by chance; None where it always does, or never.

    From one random state after another the labels are changed at one place after another. What is
    read must move the outputs from a place on that goes along with it, as what is fed back does.
    """
    if experiment.subject.predict is None or not _draws(experiment):
        return None
    for key, axis in _labels(experiment):
        try:
            found = _Trial(experiment, key, axis).found()
        except ExperimentError:
            continue
        if found is not None:
            return found
    return None


def _labels(experiment: Experiment) -> Iterator[tuple[str, int]]:
    """Keys that the loss scores something against place by place, and the axis of the places."""
    scoring, known = Scoring(), {each.key for each in experiment.layout.labels}
    experiment.evaluate(experiment.batch, under=(scoring,))
    asked = list(_asked(scoring.calls, experiment.size))
    for key, tensor in experiment.tensors.items():
        sizes = {experiment.size} if experiment.size else set(tensor.shape[:2])
        for axis in {_place_axis(tensor, size) for size in sizes} - {None}:
            if axis is not None and (key in known or _is_scored(tensor, axis, asked)):
                yield key, axis


def _place_axis(tensor: Tensor, size: int) -> int | None:
    """The one of the first two axes that is not the samples'; None without, and of few places."""
    if tensor.ndim < 2 or size < 2 or tensor.dtype is torch.bool or size not in tensor.shape[:2]:
        return None
    axis = 1 if len(tensor) == size else 0
    return axis if tensor.shape[axis] >= LEAST else None


def _asked(calls: Sequence[Call], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels with which of them count, flat; those of a call a place together, place by place."""
    of_place = [c for c in calls if c.labels.ndim and len(c.labels) == size]
    for shape in {call.labels.shape for call in of_place}:
        same = [call for call in of_place if call.labels.shape == shape]
        if len(same) > 1:
            yield (
                torch.stack([call.labels for call in same]).flatten(),
                torch.stack([call.counted for call in same]).flatten(),
            )
    for call in calls:
        if call.labels.shape == call.counted.shape:
            yield call.labels.flatten(), call.counted.flatten()


def _is_scored(tensor: Tensor, axis: int, asked: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Whether labels are the tensor's, from one of its first places on."""
    for start in range(AHEAD):
        later = tensor.detach().narrow(axis, start, tensor.shape[axis] - start)
        for own in (later.flatten(), later.transpose(0, 1).flatten()):
            for labels, counted in asked:
                if labels.shape == own.shape and counted.any():
                    one, two = labels[counted], own[counted].to(labels)
                    if torch.equal(one, two) and len(one.unique()) > 2:
                        return True
    return False


class _Trial:
    """The predictions of a batch from several random states, with other labels at some places."""

    def __init__(self, experiment: Experiment, key: str, axis: int) -> None:
        self.experiment, self.key, self.axis = experiment, key, axis
        self.tensor = experiment.tensors[key]
        count, self.size = self.tensor.shape[axis], self.tensor.shape[1 - axis]
        steps = torch.linspace(1, count - 2, min(TRIED, count - 2), device="cpu").long()
        self.places: list[int] = steps.unique().tolist()
        self.largest, self.most = 0.0, 0
        self.name: str | None = None

    def found(self) -> Gold | None:
        """What the draw decides, once two random states are found to differ in what is read."""
        seen: list[Tensor] = []
        for seed in SEEDS:
            first = self._first(seed)
            if first is None:
                return None
            seen.append(first)
            differ = self._differ(torch.stack(seen))
            if differ is not None and self.name is not None:
                reads = torch.stack(seen) >= 0
                source = self._source(SEEDS[: len(seen)], reads, differ)
                share = float(reads.double().mean())
                return Gold(self.key, self.name, self.largest, share, source)
        return None

    def _differ(self, first: Tensor) -> tuple[int, int] | None:
        """(place, sample) that is read from one state, and not from another."""
        read = first >= 0
        by_place = torch.tensor(self.places, device=first.device)[None, :, None]
        shifts = (first - by_place)[read]
        several = int(read.any(2).any(0).sum()) > 1
        goes_on = self.most > 1 and self.largest >= MUCH
        if not several or not goes_on or len(shifts.unique()) > 1:
            return None
        by_draw = (read.any(0) & ~read.all(0)).nonzero()
        return None if not len(by_draw) else (int(by_draw[0, 0]), int(by_draw[0, 1]))

    def _first(self, seed: int) -> Tensor | None:
        """(place, sample) the first place of the output that other labels there move; -1: none.

        None where no output has the samples and places, or one is of another shape then.
        """
        plain = self._predicted(self.experiment.batch, seed)
        self.name = self.name or self._fitting(plain)
        every = self._changed(range(1, self.tensor.shape[self.axis]))
        if self.name is None or every is None:
            return None
        moved = self._moved(plain, self._predicted(every, seed))
        if moved is None:
            return None
        nowhere = torch.full((len(moved),), -1, device=moved.device)
        if not bool(moved.any()):
            return torch.stack([nowhere] * len(self.places))
        rows = []
        for place in self.places:
            other = self._changed([place])
            moved = None if other is None else self._moved(plain, self._predicted(other, seed))
            if moved is None:
                return None
            self.most = max(self.most, int(moved.sum(1).max()))
            rows.append(torch.where(moved.any(1), moved.long().argmax(1), nowhere))
        return torch.stack(rows)

    def _changed(self, places: Sequence[int]) -> Batch | None:
        where = torch.zeros(self.tensor.shape[:2], dtype=torch.bool, device=self.tensor.device)
        where.index_fill_(self.axis, torch.tensor(places, device=where.device), True)
        later = self.tensor.narrow(self.axis, 1, self.tensor.shape[self.axis] - 1)
        other = vary(self.tensor, where, later)
        return None if other is None else with_leaf(self.experiment.batch, self.key, other)

    def _fitting(self, outputs: Outputs) -> str | None:
        return next(
            (
                name
                for name, value in sorted(outputs.items(), reverse=True)
                if value.is_floating_point() and _place_axis(value, self.size) is not None
            ),
            None,
        )

    def _moved(self, plain: Outputs, other: Outputs) -> Tensor | None:
        """(sample, place) of the output."""
        assert self.name is not None
        one, two = plain.get(self.name), other.get(self.name)
        if one is None or two is None or one.shape != two.shape:
            return None
        axis, size = _place_axis(one, self.size), scale(one)
        if axis is None or not size:
            return None
        apart = (one - two).detach().abs().flatten(2) if one.ndim > 2 else (one - two)[..., None]
        by_place = apart.abs().amax(2) / size
        self.largest = max(self.largest, float(by_place.max()))
        return (by_place if axis else by_place.T) > NONE

    def _source(self, seeds: Sequence[int], reads: Tensor, differ: tuple[int, int]) -> str | None:
        """The line whose draws, taken from another state, turn what is read into unread."""
        place, sample = differ
        one = seeds[reads[:, place, sample].tolist().index(True)]
        batch, lines = self.experiment.batch, DrawLines()
        self._predicted(batch, one, (lines,))
        other = self._changed([self.places[place]])
        if len(lines.found) < 2 or other is None:
            return lines.said(0) if lines.found else None

        def is_read(under: DrawLines) -> bool:
            plain = self._predicted(batch, one, (under,))
            moved = self._moved(plain, self._predicted(other, one, (under,)))
            return moved is None or bool(moved[sample].any())

        return deciding(lines, OTHERS, is_read)

    def _predicted(
        self, batch: Batch, seed: int, under: Sequence[AbstractContextManager[Any]] = ()
    ) -> Outputs:
        return _predicted(self.experiment, batch, seed, under)


def _draws(experiment: Experiment) -> bool:
    """Whether a generator stands elsewhere after `predict`."""
    stood: list[RandomState] = []

    class Stands:
        def __enter__(self) -> None:
            seed_everything(SEEDS[0])
            stood.append(RandomState.take())

        def __exit__(self, *_: object) -> None:
            stood.append(RandomState.take())

    _predicted(experiment, experiment.batch, SEEDS[0], (Stands(),))
    return not stood[0].same(stood[1])


def _predicted(
    experiment: Experiment,
    batch: Batch,
    seed: int,
    under: Sequence[AbstractContextManager[Any]] = (),
) -> Outputs:
    """What `predict` gives, and what the model itself gave last, in evaluation mode."""
    predict, model = experiment.subject.predict, experiment.subject.model
    assert predict is not None

    def call() -> Mapping[str, Tensor]:
        seed_everything(seed)
        with attempted("`Subject.predict`, on a changed batch in evaluation mode,"):
            given = predict(model.eval(), copied(batch))
        return {f"predicted {name}": value for name, value in named(given)}

    snapshot = Snapshot.take(model, parameters=True)
    ran = glance(call, model, snapshot, under=under, own=True, rounding=0.0)
    return {name: value.detach() for name, value in ran.outputs.items()}
