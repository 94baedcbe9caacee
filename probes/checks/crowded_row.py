"""IDX007: ids that have no row of their own crowd on one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.reading.asked import Asked, ids_beyond, is_ids, tables
from probes.reading.rows import looked


@dataclass(frozen=True, slots=True)
class _Crowd:
    """Ids of a key beyond a table are all given its row `row`.

    share: of all ids over the first batches. kinds: how many different ids there are;
    beyond: how many of them have no row of their own.
    """

    key: str
    table: Asked
    row: int
    share: float
    kinds: int
    beyond: int


@dataclass(frozen=True, slots=True)
class CrowdedRow:
    """Most ids of a batch lie beyond the embedding's table, and are all given one row of it.

    The ids of the batch are compared with the indices that the table gets, be it an embedding's
    or a parameter that the code looks up by itself (`weight[ids]`, `F.embedding`). Told where
    at least `share` of the ids over the first batches, and `least` different ones, get the row
    that all beyond the table get: clamped to the last, or sent to that of the unknown. Where
    the table has about as many rows as there are different ids, it was sized by their number
    and not by the largest, which is a warning; else it is a note, since what is counted, such
    as days, may end there on purpose. Rare words that share the row of the unknown are fewer,
    and ids that are hashed are spread over the rows.

    Sick: `nn.Embedding(items.nunique(), 16)`, read by `item.clamp(max=table.num_embeddings - 1)`.
    Healthy: `nn.Embedding(items.max() + 1, 16)`, or items numbered anew from 0.
    """

    share: float = 0.5
    least: int = 3
    spare: float = 1.25  # rows for each different id, at most, in a table sized by their number

    code: ClassVar[str] = "IDX007"
    rule: ClassVar[str] = "crowded-row"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A table with fewer rows than an id of the batch needs."""
        if not any(True for _ in _pairs(experiment)):
            return "no key of the batch holds ids beyond an embedding's table"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key."""
        done = set[str]()
        for table, key in _pairs(experiment):
            row = None if key in done else _given(experiment, table, experiment.tensors[key])
            if row is None:
                continue
            crowd = _counted(experiment, key, table, row)
            if crowd is None or crowd.share < self.share or crowd.beyond < self.least:
                continue
            if _is_read_by(experiment, table, key):
                done.add(key)
                yield self._finding(crowd)

    def _finding(self, crowd: _Crowd) -> Finding:
        table = crowd.table
        fits = crowd.kinds <= table.rows <= self.spare * crowd.kinds + 2
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if fits else Verdict.NOTE,
            message=f"{crowd.beyond} of {crowd.kinds} different ids of `{crowd.key}` have no row "
            f"in `{table.name}`, which has {table.rows}, and all get row {crowd.row}: they are "
            f"{100 * crowd.share:.0f}% of all ids, and are told apart no more.",
            fix=f"Size `{table.name}` by the largest id and one, or number the ids of "
            f"`{crowd.key}` anew from 0.",
            site=table.site,
            phase="forward",
            source=table.line,
            where={"row": crowd.row},
            evidence=(
                Evidence(f"share of ids that get row {crowd.row}", crowd.share, self.share),
                Evidence("different ids without a row of their own", crowd.beyond, self.least),
            ),
        )


def _pairs(experiment: Experiment) -> Iterator[tuple[Asked, str]]:
    """A table, and a key that holds an id beyond its rows."""
    keys = {key: tensor for key, tensor in experiment.tensors.items() if is_ids(tensor)}
    for table in tables(experiment) if keys else ():
        for key, tensor in keys.items():
            if bool(ids_beyond(tensor, table.rows).any()):
                yield table, key


def _given(experiment: Experiment, table: Asked, ids: Tensor) -> int | None:
    """The one row that the table is asked for in place of ids beyond it; None if it is not so."""
    beyond, known = ids_beyond(ids, table.rows).flatten(), ids.flatten()
    for got in table.given(experiment, ids):
        if torch.equal(got[~beyond], known[~beyond]) and len(got[beyond].unique()) == 1:
            return int(got[beyond][0])
    return None


def _is_read_by(experiment: Experiment, table: Asked, key: str) -> bool:
    """Whether the table is asked for the ids of the key as they are, where it has their rows."""
    ids = experiment.tensors[key]
    others = (torch.arange(ids.numel(), device=ids.device) % table.rows).to(ids.dtype).view_as(ids)
    given = table.given_others(experiment, key, others)
    return any(torch.equal(got, others.flatten()) for got in given)


def _counted(experiment: Experiment, key: str, table: Asked, row: int) -> _Crowd | None:
    """Over the first batches, whole."""
    found = [batch[key].flatten() for batch in looked(experiment) if key in batch]
    if not found:
        return None
    ids = torch.cat(found)
    beyond = ids_beyond(ids, table.rows)
    return _Crowd(
        key,
        table,
        row,
        float(beyond.float().mean()),
        len(ids.unique()),
        len(ids[beyond].unique()),
    )
