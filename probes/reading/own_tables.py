"""Which table is asked for which ids of the batch, and which ids would fill it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.compare import NOISES, gap
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.reading.alive import alive
from probes.reading.asked import is_ids
from probes.reading.indexing import Pick
from probes.reading.own_offsets import Column
from probes.reading.rows import looked
from probes.stepping.aim import updates
from probes.subject import Batch
from probes.vary import vary

WIDEST = 64  # columns of ids
SPARE = 20  # rows of a table of which one may be asked for by none of the first batches


@dataclass(frozen=True, slots=True)
class Own:
    """A table of so many rows, by name, and the ids of the batch that all its look-ups are of.

    line: of the first of them.
    """

    name: str
    rows: int
    columns: tuple[Column, ...]
    line: str | None

    def is_filled(self, reach: int) -> bool:
        """Whether ids below `reach` ask for it to its end, or to next to it."""
        return self.rows - max(1, self.rows // SPARE) <= reach <= self.rows


@dataclass(frozen=True, slots=True)
class Misasked:
    """A table that ids fill which nobody reads, and that is asked for others, of another table.

    reach: how many rows those can ask it for; wanted: how many the unread ones could.
    """

    unread: Column
    table: Own
    asked: Column
    own: Own
    reach: int
    wanted: int


def misasked(experiment: Experiment) -> Iterator[Misasked]:
    """Of all tables that the code looks up by ids of the batch, as they are.

    Raises ExperimentError where the loss raises.
    """
    columns = list(_columns(experiment))
    known = list(_tables(experiment, columns))
    if len(known) < 2:
        return
    reach = _reaches(experiment, columns)
    asked = {each for table in known for each in table.columns}
    for table in known:
        found = _owner(table, known, reach)
        for column in columns if found is not None else ():
            fits = column not in asked and table.is_filled(reach.get(column, 0))
            if found is None or not fits or not _is_like(experiment, column, found[0]):
                continue
            if _is_unread(experiment, column):
                one, own = found
                yield Misasked(column, table, one, own, reach[one], reach[column])
                break


def _owner(
    table: Own, known: Sequence[Own], reach: Mapping[Column, int]
) -> tuple[Column, Own] | None:
    """The ids that it is asked for, and another table, that these fill, and not this one."""
    for column in table.columns:
        far = reach.get(column, 0)
        if far and not table.is_filled(far):
            others = (each for each in known if each is not table and column in each.columns)
            own = next((each for each in others if each.is_filled(far)), None)
            if own is not None:
                return column, own
    return None


def _columns(experiment: Experiment) -> Iterator[Column]:
    """Keys of ids that differ, and their columns."""
    left = {*experiment.targets, *(each.key for each in experiment.layout.masks)}
    left |= {each.key for each in experiment.layout.labels}
    for key, tensor in experiment.tensors.items():
        if not is_ids(tensor) or key in left or tensor.numel() < 2:
            continue
        for entry in (None, *range(_fields(experiment, key, tensor))):
            column = Column(key, entry, 0)
            ids = column.of(experiment.tensors)
            if bool((ids != ids.flatten()[0]).any()) and not bool((ids < 0).any()):
                yield column


def _fields(experiment: Experiment, key: str, tensor: Tensor) -> int:
    """How many columns may be fields of their own: few, and as many in every batch."""
    widths = {batch[key].shape[-1] for batch in looked(experiment) if key in batch}
    few = 1 < tensor.ndim < 4 and tensor.shape[-1] <= WIDEST
    return tensor.shape[-1] if few and widths <= {tensor.shape[-1]} else 0


def _tables(experiment: Experiment, columns: Sequence[Column]) -> Iterator[Own]:
    """Those all of whose look-ups are of the same ids."""
    model, seen = experiment.subject.model, alive(experiment)
    held = {id(t): name for name, t in (*model.named_buffers(), *model.named_parameters())}
    found: dict[str, list[Pick]] = {}
    for pick in (*seen.looked_up, *seen.picks):
        name = held.get(id(pick.source))
        if name is not None and pick.axis == 0 and not pick.rows and pick.op != "aten.gather":
            found.setdefault(name, []).append(pick)
    for name, picks in found.items():
        of = [
            each
            for each in columns
            if all(_is_of(pick.index, each.of(experiment.tensors)) for pick in picks)
        ]
        if of:
            yield Own(name, len(picks[0].source), tuple(of), picks[0].line)


def _is_of(index: Tensor, ids: Tensor) -> bool:
    same = index.numel() == ids.numel()
    return same and bool((index.flatten() == ids.flatten()).all())


def _reaches(experiment: Experiment, columns: Sequence[Column]) -> dict[Column, int]:
    """One more than the highest id of each in the first batches."""
    found: dict[Column, int] = {}
    for batch in looked(experiment):
        for column in columns:
            if column.key in batch and batch[column.key].numel():
                found[column] = max(found.get(column, 0), int(column.of(batch).max()) + 1)
    return found


def _is_like(experiment: Experiment, one: Column, two: Column) -> bool:
    """Whether both hold as many ids in the same places, so that one may stand for the other."""
    alike = one.of(experiment.tensors).shape == two.of(experiment.tensors).shape
    return alike and (one.entry is None) == (two.entry is None)


def _is_unread(experiment: Experiment, column: Column) -> bool:
    """Whether other ids there move neither the loss nor an output, nor the subject's own step."""
    tensor = experiment.tensors[column.key]
    where = torch.zeros_like(tensor, dtype=torch.bool)
    column.of({column.key: where}).fill_(True)
    other = vary(tensor, where, column.of(experiment.tensors))
    if other is None:
        return False
    batch = with_leaf(experiment.batch, column.key, other)
    limit, before = NOISES * experiment.evaluated.noise, experiment.evaluated.ran.outputs
    try:
        after = experiment.evaluate(batch).outputs
        moves = any(n not in after or gap(v, after[n])[0] > limit for n, v in before.items())
        return not moves and not _moves_the_step(experiment, batch)
    except ExperimentError:
        return False


def _moves_the_step(experiment: Experiment, batch: Batch) -> bool:
    if experiment.subject.train_step is None:
        return False
    before, after = (updates(experiment.subject, each) for each in (experiment.batch, batch))
    return [each.losses for each in before] != [each.losses for each in after]
