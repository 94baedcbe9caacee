"""The figures of a page under their headings, within the page's room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from reports.figures import (
    alignment,
    attribution,
    clipping,
    curves,
    gradients,
    graph,
    measured,
    memory,
    updates,
)
from reports.figures.alignment import Alignment
from reports.figures.figure import Figure
from reports.figures.measured import Measured
from reports.page import Page

LARGEST = 5 * 2**20  # bytes of a page
MEASURED = "alignment"  # the section of what checks measured
ROOM = 550_000  # characters that the figures of one section may take

Data = TypeVar("Data")


@dataclass(frozen=True, slots=True)
class Section:
    """Figures under one heading.

    id: its address. named: how the navigation calls it. absent: what is said where there is none.
    left_out: what is said of figures that found no room.
    """

    id: str
    title: str
    named: str
    figures: tuple[Figure, ...]
    absent: str
    left_out: str | None = None


def sections(page: Page, room: int = ROOM) -> Iterator[Section]:
    """Every section of figures but for attention, in reading order."""
    norms = [
        *_drawn(
            page.gradients, lambda each: gradients.draw(each.matrix, each.part, each.stat, each.of)
        ),
        *_drawn(page.updates, lambda each: updates.draw(each.matrix, each.part, each.of)),
        *_drawn(page.clipping, clipping.draw),
    ]
    absent = "No gradient norm was recorded"
    yield _section("grad", "Gradients, updates and clipping", "Gradients", norms, absent, room)
    courses = _drawn(page.courses, curves.draw)
    absent = "No loss and no accuracy was recorded"
    yield _section("overfit", "Curves", "Curves", courses, absent, room)
    kept = _drawn(page.kept, _of_check)
    absent = "No check kept an array of what it measured"
    yield _section(MEASURED, "Alignment and what checks measured", "Checks", kept, absent, room)


def later(page: Page, room: int = ROOM) -> Iterator[Section]:
    """The sections that stand behind attention."""
    shares = [
        *_drawn(page.attributions, attribution.draw),
        *_drawn(page.conductance, attribution.draw_conductance),
    ]
    absent = "No decision was attributed"
    yield _section("attributions", "Attributions", "Attributions", shares, absent, room)
    graphs = _drawn(page.graphs, graph.draw)
    absent = "No step was refused whose graph could be kept"
    yield _section("graph", "Autograd graph", "Graph", graphs, absent, room)
    memories = _drawn(page.memory, memory.draw)
    absent = "No step ran out of memory"
    yield _section("memory", "Memory by site", "Memory", memories, absent, room)


def _of_check(kept: Measured | Alignment) -> Figure:
    return alignment.draw(kept) if isinstance(kept, Alignment) else measured.draw(kept)


def _drawn(data: Iterable[Data], draw: Callable[[Data], Figure]) -> list[Figure]:
    return [draw(each) for each in data]


def _section(
    id: str, title: str, named: str, figures: Sequence[Figure], absent: str, room: int
) -> Section:
    kept = fitting(figures, room)
    said = None
    if len(kept) < len(figures):
        said = (
            f"{len(kept)} of {len(figures)} figures are drawn, the worst, the first and the last "
            "among them; all of their numbers are in the run folder."
        )
    return Section(id, title, named, kept, absent, said)


def fitting(figures: Sequence[Figure], room: int) -> tuple[Figure, ...]:
    """The figures that fit: worst, first and last always, then the others in order."""
    if not figures:
        return ()
    worst = max(range(len(figures)), key=lambda at: figures[at].badness)
    kept: list[int] = []
    size = 0
    for at in dict.fromkeys([worst, 0, len(figures) - 1, *range(len(figures))]):
        size += figures[at].size
        if size > room and len(kept) >= 3:
            break
        kept.append(at)
    return tuple(figures[at] for at in sorted(kept))
