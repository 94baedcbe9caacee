"""Columns that are picked by one index a sample, and that every sample gets of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from probes.batch import take
from probes.compare import NOISES
from probes.experiment import LOSS, Experiment
from probes.finding import ExperimentError
from probes.reading.indexing import Indexing, Pick
from probes.scoring.in_turn import turned_by_one

ROUNDING = 1e-5  # of the loss, which is summed up in another order
CLOSE = 1e-4  # of the largest number picked from: the same batch in another order
MOVES = 100.0  # times the rounding: what is read in earnest


@dataclass(frozen=True, slots=True)
class ForEveryone:
    """A pick, the key that its index is, how far the loss moved, and what is rounding.

    rows: with every sample given the row of its neighbour; columns: with the columns exchanged.
    """

    pick: Pick
    key: str | None
    rows: float
    columns: float
    limit: float


def for_everyone(experiment: Experiment) -> Iterator[ForEveryone]:
    """The picks where no row is told from another, while each column is of one sample.

    Rows are of samples, and so is the index, where both turn with the batch. Then either is turned
    by itself, behind the pick. Raises ExperimentError where the loss raises.
    """
    if experiment.size < 3:
        return
    before, loss = _run(experiment)
    places = [i for i, pick in enumerate(before) if _is_wide(pick, experiment.size)]
    if not places:
        return
    order = turned_by_one(experiment.size)
    turned, _ = _run(experiment, order)
    if len(turned) != len(before):
        return
    limit = max(ROUNDING * abs(loss), NOISES * experiment.evaluated.noise)
    for at in places:
        pick = before[at]
        if not _turns(pick, turned[at], order):
            continue
        rows, columns = (
            abs(_run(experiment, turn=(at, axis))[1] - loss) for axis in (0, pick.axis)
        )
        if rows <= limit and columns > MOVES * limit:
            yield ForEveryone(pick, _key(experiment, pick), rows, columns, limit)


def _is_wide(pick: Pick, size: int) -> bool:
    """Whether it picks, of as many rows, by an index of as many, along an axis of columns."""
    whole = pick.op in ("aten.index", "aten.index_select") and pick.axis > 0 and not pick.rows
    wide = whole and pick.index.ndim == 1 and pick.out.ndim == pick.source.ndim
    return wide and len(pick.source) == len(pick.index) == pick.out.shape[pick.axis] == size


def _turns(pick: Pick, turned: Pick, order: Sequence[int]) -> bool:
    """Whether rows and index turn with the batch, and neither is the same for all."""
    pairs = ((pick.source, turned.source), (pick.index.double(), turned.index.double()))
    for one, two in pairs:
        if one.shape != two.shape:
            return False
        wanted, got = one[list(order)].detach(), two.detach()
        near = CLOSE * float(one.detach().abs().max())
        if not float((wanted - got).abs().max()) <= near:
            return False
        if not float((wanted - one.detach()).abs().max()) > near:
            return False
    return True


def _run(
    experiment: Experiment, order: Sequence[int] = (), turn: tuple[int, int] | None = None
) -> tuple[list[Pick], float]:
    """What is picked, and the loss; with the batch in another order, or one pick turned."""
    batch = take(experiment.batch, order, experiment.layout) if order else experiment.batch
    seen = _Turning(turn)
    loss = experiment.evaluate(batch, under=[seen]).outputs.get(LOSS)
    if loss is None or not bool(torch.isfinite(loss.detach()).all()):
        raise ExperimentError("the loss is not finite, or could not be had")
    return seen.picks, float(loss.detach().double().mean())


def _key(experiment: Experiment, pick: Pick) -> str | None:
    """The key whose numbers the index is."""
    wanted = pick.index.tolist()
    known = experiment.tensors.items()
    return next((key for key, each in known if each.ndim == 1 and each.tolist() == wanted), None)


class _Turning(Indexing):
    """Notes picks; what the one of a number gives is turned by one along an axis."""

    def __init__(self, turn: tuple[int, int] | None) -> None:
        super().__init__(count())
        self._turn = turn

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run, and been looked at; what it gives may have been turned."""
        known = len(self.picks)
        out = super().__torch_function__(func, types, args, kwargs)
        if self._turn is None or len(self.picks) == known or known != self._turn[0]:
            return out
        return out.roll(1, self._turn[1])
