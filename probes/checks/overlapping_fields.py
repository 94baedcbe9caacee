"""IDX013: columns of ids that are moved into one table, and share rows of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.modules import every_module
from probes.reading.one_table import Crowd, at_the_end, crowd
from probes.reading.own_offsets import Column, Moved, moved
from probes.reading.rows import looked

FEW = 6  # sizes that are named


@dataclass(frozen=True, slots=True)
class _Overlap:
    """Two columns that share rows; pairs: how many do, of all whose offsets differ."""

    one: Column
    two: Column
    shared: tuple[int, ...]
    pairs: int
    of: int
    highest: int


@dataclass(frozen=True, slots=True)
class OverlappingFields:
    """Columns of ids get offsets of their own into one table, and yet ask for the same rows.

    What a look-up asks for is, column by column, the ids of the batch and one number; over the
    first batches it is counted which rows each column asks for. Told where the offsets differ,
    some pairs of columns share no row, others several, and the table has room for all columns
    one after the other, and not for many more. Columns with one offset share a vocabulary on
    purpose; offsets that grow evenly, as along time, and tables without that room or with far
    more are another thing; one row that is shared may be that of what is missing.

    Sick: `table(fields + torch.tensor([0, *sizes[:-1]]))`.
    Healthy: `table(fields + torch.tensor([0, *sizes[:-1]]).cumsum(0))`.
    """

    fewest: int = 2  # rows that one pair shares at least
    spare: float = 3.0  # times the room that all columns need, at most, in a table made for them

    code: ClassVar[str] = "IDX013"
    rule: ClassVar[str] = "overlapping-fields"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A table that columns of ids are moved into."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        if not any(True for _ in moved(experiment)):
            return "no table is asked for columns of ids, moved by offsets or as they are"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding: tables that are looked up by the same rows have one cause."""
        root = next(every_module(experiment.subject.model))[0]
        for table in moved(experiment):
            overlap = self._overlap(experiment, table) if _is_parted(table) else None
            as_they_are = crowd(experiment, table)
            last = at_the_end(experiment, table)
            if overlap is not None:
                yield self._finding(table, overlap, root)
            elif as_they_are is not None:
                yield self._crowd(as_they_are, root)
            elif last:
                yield self._clamped(table, last, root)
            else:
                continue
            return

    def _crowd(self, found: Crowd, root: str) -> Finding:
        table, unasked = found.table, found.table.rows - found.highest - 1
        sizes = ", ".join(map(str, found.sizes[:FEW])) + ", ..." * (len(found.sizes) > FEW)
        why = f"as many as they have together ({sizes})"
        if found.held is not None:
            why = f"and `{found.held}` says how many are each's (of ids they have {sizes})"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{len(found.sizes)} columns, {table.columns[0]} to {table.columns[-1]}, "
            f"are looked up in `{table.name}` as they are, and share its rows: it has "
            f"{table.rows}, {why}, and none above {found.highest} is asked for.",
            fix="Begin each column where the one before it ends: add the running sum of the sizes "
            "before it to its ids.",
            site=table.name.rpartition(".")[0] or root,
            phase="forward",
            source=table.line,
            where={"row": 0},
            evidence=(
                Evidence("rows that no column asks for", unasked, 0, f"of {table.rows}"),
                Evidence("highest row that is asked for", found.highest, table.rows - 1),
            ),
        )

    def _clamped(self, table: Moved, last: Sequence[Column], root: str) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"all ids of {last[0]}, which differ, ask for row {table.rows - 1} of "
            f"`{table.name}`, its last, and the columns beside it for rows of their own: its "
            "offset lies past the end, and what is asked for is clamped.",
            fix="Begin the first column at row 0 and each where the one before it ends, and do not "
            "clamp what is asked for.",
            site=table.name.rpartition(".")[0] or root,
            phase="forward",
            source=table.line,
            where={"row": table.rows - 1},
            evidence=(Evidence(f"columns that ask for row {table.rows - 1} alone", len(last), 0),),
        )

    def _finding(self, table: Moved, overlap: _Overlap, root: str) -> Finding:
        one, two, rows = overlap.one, overlap.two, overlap.shared
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{one} and {two} are moved by {one.offset} and {two.offset} into "
            f"`{table.name}`, and both ask for {len(rows)} of its rows, such as row {rows[0]}; so "
            f"do {overlap.pairs} of {overlap.of} pairs of columns. It has {table.rows} rows, room "
            f"for all of them apart, and none above {overlap.highest} is asked for.",
            fix="Begin each column where the one before it ends: the offsets are the running sum "
            "of the sizes, `cumsum`, and not the sizes themselves.",
            site=table.name.rpartition(".")[0] or root,
            phase="forward",
            source=table.line,
            where={"row": rows[0]},
            evidence=(
                Evidence("rows that both columns ask for", len(rows), 0),
                Evidence("pairs of columns that share rows", overlap.pairs, 0, f"of {overlap.of}"),
                Evidence("highest row that is asked for", overlap.highest, table.rows - 1),
            ),
        )

    def _overlap(self, experiment: Experiment, table: Moved) -> _Overlap | None:
        """None where columns of other offsets have rows of their own, or the table has no room."""
        asked = _asked(experiment, table)
        room = _room(asked)
        pairs = [(a, b) for a, b in combinations(asked, 2) if a.offset != b.offset]
        shared = {(a, b): _both(asked[a], asked[b]) for a, b in pairs}
        found = {pair: rows for pair, rows in shared.items() if rows}
        if not found or len(found) == len(pairs) or not room <= table.rows <= self.spare * room:
            return None
        (one, two), rows_of = max(found.items(), key=lambda each: len(each[1]))
        if len(rows_of) < self.fewest:
            return None
        highest = max(int(rows.max()) for rows in asked.values())
        return _Overlap(one, two, rows_of, len(found), len(pairs), highest)


def _is_parted(table: Moved) -> bool:
    """Whether the columns, each looked up once, have offsets that do not just grow evenly."""
    offsets = [each.offset for each in table.columns]
    ordered = sorted({*offsets})
    steps = {b - a for a, b in pairwise(ordered)}
    once = len({(each.key, each.entry) for each in table.columns}) == len(offsets)
    return once and len(ordered) > 2 and len(steps) > 1


def _room(asked: Mapping[Column, Tensor]) -> int:
    """The rows that the columns need one after the other; those of one offset lie over another."""
    parts = dict[int, list[Tensor]]()
    for column, rows in asked.items():
        parts.setdefault(column.offset, []).append(rows)
    whole = [torch.cat(rows) for rows in parts.values()]
    return sum(int(rows.max() - rows.min()) + 1 for rows in whole)


def _asked(experiment: Experiment, table: Moved) -> dict[Column, Tensor]:
    """The rows that each column asks for over the first batches, each once."""
    found: dict[Column, list[Tensor]] = {each: [] for each in table.columns}
    for batch in looked(experiment):
        for column, rows in found.items():
            rows += [column.of(batch).unique() + column.offset] if column.key in batch else []
    return {column: torch.cat(rows).unique() for column, rows in found.items() if rows}


def _both(one: Tensor, two: Tensor) -> tuple[int, ...]:
    return tuple(one[torch.isin(one, two)].tolist())
