"""IDX029: a real id is the one that padding has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.reading.alive import alive
from probes.reading.inner_padding import Inner, inner
from probes.scoring.class_names import NOTHING, SPELT, name_of
from probes.scoring.wanted import is_by_place


@dataclass(frozen=True, slots=True)
class RealPadding:
    """The id that is taken for padding stands among real ids, as one of them.

    That is the one of a table's `padding_idx`, of a mask that the code makes of its ids, or of a
    loss's `ignore_index`.

    Rows end in runs of it, as of padding, and it stands before that as well: as often as other
    ids do, not side by side and not at the same places in many rows, as the padding of one part of
    a row would. Its vector stays zero, it is hidden, or it is never asked for. What tells it
    from words that are left out on purpose: the last row of the table, and it alone, is asked for
    by no batch, so that ids start one too low; or the code has a name for the id, and it is none of
    padding. Without either it is a note.

    Sick: `{sku: i for i, sku in enumerate(skus)}` for `nn.Embedding(len(skus) + 1, 32,
    padding_idx=0)`.
    Healthy: `{sku: i + 1 for i, sku in enumerate(skus)}`.
    """

    least: int = 8  # rows of a table, of which all but the last are asked for

    code: ClassVar[str] = "IDX029"
    rule: ClassVar[str] = "real-padding"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """An embedding that is given ids by place."""
        tables = (m for m in experiment.subject.model.modules() if isinstance(m, nn.Embedding))
        if not any(True for _ in tables) or not any(map(is_by_place, experiment.tensors.values())):
            return "no embedding is given ids by place"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a table and key."""
        for each in inner(experiment):
            names = [name_of(experiment.subject, each.rows - by, each.pad) for by in (0, 1)]
            spelt = [name for name in names if name is not None and any(map(str.isalnum, name))]
            if not any(NOTHING.search(name) or SPELT.search(name) for name in spelt):
                yield self._finding(experiment, each, names[0] if names[0] in spelt else None)

    def _finding(self, experiment: Experiment, each: Inner, name: str | None) -> Finding:
        last = each.unused if each.rows > self.least else None
        called = "" if name is None else f", `{name}`,"
        shifted = (
            f" Row {last} of `{each.table}`, the last, is asked for by no batch that was "
            f"looked at: ids start at {each.pad}, and {each.pad} is padding."
            if last is not None
            else ""
        )
        ignores = each.taken != "label" and _ignores(experiment, each.pad)
        unasked = " The loss ignores labels of it as well." if ignores else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE if last is None and name is None else Verdict.WARN,
            message=f"id {each.pad}{called} stands at {each.places} of {each.of} places of "
            f"`{each.key}` that are no padding, and is {_what(each)}.{unasked}{shifted}",
            fix=f"Let real ids start after padding's, at {each.pad + 1}, in inputs and labels, or "
            "give padding an id of its own.",
            site=each.table,
            phase="data",
            source=_line(experiment, each),
            evidence=(
                Evidence(f"places of id {each.pad} before a row's padding", each.places, 0),
                Evidence("share of these places", each.places / each.of),
                *(() if last is None else (Evidence("row that is asked for by no batch", last),)),
            ),
        )


def _what(each: Inner) -> str:
    if each.taken == "row":
        kept = f"`{each.table}` keeps for padding (`padding_idx={each.pad}`)"
        return f"the row that {kept}: its vector is never learned"
    if each.taken == "mask":
        return "what a mask that is made of the ids takes for padding: it is hidden there too"
    return f"the label that the loss ignores (`ignore_index={each.pad}`): it is never asked for"


def _line(experiment: Experiment, each: Inner) -> str | None:
    """Of the code that asks the table."""
    weight = experiment.subject.model.get_submodule(each.table).weight
    try:
        return next((p.line for p in alive(experiment).looked_up if p.source is weight), None)
    except ExperimentError:
        return None


def _ignores(experiment: Experiment, pad: int) -> bool:
    """Whether a loss leaves out labels of that id."""
    try:
        return any(each.ignored == pad for each in alive(experiment).classed)
    except ExperimentError:
        return False
