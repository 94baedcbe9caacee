"""Targets that the loss makes of a key, in the reverse of the order in which its outputs stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.experiment import Experiment, attempted, copied
from probes.finding import ExperimentError
from probes.raised import source_here
from probes.reading.alive import Alive, alive
from probes.reading.walks import Changes, by_place, changed, moved, places, sequences, ways
from probes.replay import Snapshot, replay
from probes.subject import Batch

MOST = 400  # results that are kept of a pass
FAR = 8.0  # times the spread: the sign of a difference moves as well


@dataclass(frozen=True)
class Backwards:
    """An output whose place reads `read` there, and is scored against `key` from the other end.

    first: the place of the key that was changed, and where targets moved then. op, line: what
    gives the targets in that order; None where it is not known.
    """

    key: str
    site: str
    read: str
    place: int
    moved: tuple[int, int]
    op: str | None
    line: str | None


def backwards(experiment: Experiment) -> Iterator[Backwards]:
    """At most one a key of numbers by place that no output reads.

    The loss's gradient at an output moves with its target. With the key at one place after the
    other changed, either end of what moves, or its sharpest step, walks the other way, while with
    what the output reads changed it walks along.
    """
    for key in sequences(experiment, floats=True):
        try:
            index = _scored(experiment, key)
            if index is None:
                continue
            targets = _changes(experiment, key, index, of_loss=True)
            read = _read(experiment, key, index) if ways(targets) == {-1} else None
            if read is not None:
                at = _where(experiment, key, tuple(targets))
                site = alive(experiment).shown[index].site
                yield Backwards(key, site, read, *_span(targets), *at)
        except ExperimentError:
            continue


def _span(changes: Changes) -> tuple[int, tuple[int, int]]:
    """The first place whose change moves anything, and from where to where."""
    for place, felt in changes.items():
        by_row = felt.abs().sum((0, 3))
        ends = by_row[int(by_row.amax(1).argmax())].nonzero().flatten()
        if len(ends):
            return place, (int(ends[0]), int(ends[-1]))
    raise ExperimentError("nothing moved")


def _scored(experiment: Experiment, key: str) -> int | None:
    """The last tensor shown that does not move with the key, and whose gradient does."""
    before, tried = alive(experiment), places(experiment, key)
    own = {id(each) for each in before.given}
    fits = [
        i
        for i, each in enumerate(before.shown)
        if by_place(each.tensor, experiment.size) is not None
    ]
    fits = sorted(fits, key=lambda i: id(before.shown[i]) in own)[::-1]
    old = before.of_loss([before.shown[i].tensor for i in fits])
    known = [(i, each) for i, each in zip(fits, old, strict=True) if each is not None]
    if not known:
        return None
    place, row = tried[len(tried) // 2], _row(known[0][1], experiment)
    for far in _far(of_loss=True):
        after = alive(experiment, changed(experiment, key, place, row, far), picks=False)
        still = [(i, each) for i, each in known if _is_same(before, after, i)]
        new = after.of_loss([after.shown[i].tensor for i, _ in still])
        for (i, one), two in zip(still, new, strict=True):
            if two is not None and bool(moved(one, two, experiment.size).any()):
                return i
    return None


def _row(grad: Tensor, experiment: Experiment) -> int:
    """The sample with most places that are scored."""
    rows = by_place(grad, experiment.size)
    assert rows is not None
    return int((rows != 0).any(2).sum(1).argmax())


def _is_same(before: Alive, after: Alive, index: int) -> bool:
    if len(after.shown) != len(before.shown):
        return False
    return torch.equal(before.shown[index].tensor, after.shown[index].tensor)


def _changes(experiment: Experiment, key: str, index: int, of_loss: bool) -> dict[int, Tensor]:
    """How the output, or the loss's gradient there, moves with each place of the key."""
    found, before = {}, alive(experiment)

    def seen(there: Alive) -> Tensor:
        alike = len(there.shown) == len(before.shown)
        tensor = there.shown[index].tensor if alike else None
        if tensor is not None:
            tensor = there.of_loss([tensor])[0] if of_loss else tensor.detach()
        if tensor is None:
            raise ExperimentError("other modules ran on a changed batch")
        return tensor

    old = seen(before)
    row = _row(old, experiment)
    for place in places(experiment, key):
        batches = [changed(experiment, key, place, row, far) for far in _far(of_loss)]
        new = [seen(alive(experiment, batch, picks=False)) for batch in batches]
        if any(each.shape != old.shape for each in new):
            raise ExperimentError("outputs have another shape on a changed batch")
        found[place] = torch.stack([moved(old, each, experiment.size) for each in new])
    return found


def _far(of_loss: bool) -> tuple[float, ...]:
    """How far numbers are moved: a difference's sign is all that some losses' gradients hold."""
    return (0.0, FAR, -FAR) if of_loss else (0.0,)


def _read(experiment: Experiment, key: str, index: int) -> str | None:
    """What the output reads at its own place, and from there on or up to there at most.

    None where anything by place is read in another order.
    """
    found = None
    for other in sequences(experiment, floats=False):
        if other == key or other in experiment.targets:
            continue
        with suppress(ExperimentError):
            way = ways(_changes(experiment, other, index, of_loss=False))
            if -1 in way:
                return None
            found = found or (other if way == {1} else None)
    return found


class _Results(TorchFunctionMode):
    """While it is entered, what functions give by sample and place is kept, with their lines."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.found: list[tuple[str, str | None, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have."""
        out = func(*args, **(kwargs or {}))
        floats = isinstance(out, Tensor) and out.is_floating_point()
        if floats and len(self.found) < MOST and by_place(out, self.size) is not None:
            kept = (getattr(func, "__name__", ""), source_here(), out.detach().clone())
            self.found.append(kept)
        return out


def _where(experiment: Experiment, key: str, tried: Sequence[int]) -> tuple[str | None, str | None]:
    """The first function of the loss that gives what walks the other way, and its line."""
    try:
        before = _results(experiment, experiment.batch)
        after = {s: _results(experiment, changed(experiment, key, s, 0)) for s in tried}
    except ExperimentError:
        return None, None
    if any(len(each) != len(before) for each in after.values()):
        return None, None
    for i, (op, line, value) in enumerate(before):
        if all(each[i][2].shape == value.shape for each in after.values()):
            felt = {s: moved(value, e[i][2], experiment.size)[None] for s, e in after.items()}
            if ways(felt) == {-1}:
                return op, line
    return None, None


def _results(experiment: Experiment, batch: Batch) -> list[tuple[str, str | None, Tensor]]:
    subject, mode = experiment.subject, _Results(experiment.size)

    def step() -> Tensor:
        with attempted("`Subject.loss`"), torch.no_grad():
            return subject.loss(subject.model.eval(), copied(batch)).detach()

    replay(step, subject.model, Snapshot.take(subject.model), under=[mode])
    return mode.found
