"""Autograd graphs out of a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from probes.graph import Graph as Recorded
from probes.run import Run
from reports.figures.graph import Graph
from reports.reading.stretches import UNREADABLE, Stretch, of


def read_graphs(found: Sequence[Stretch], missing: list[str]) -> Iterator[Graph]:
    """Every graph of every stretch; one that cannot be read is said as missing."""
    for part, run in found:
        try:
            yield from _of_run(part, run)
        except UNREADABLE as error:
            missing.append(f"a graph of {part} cannot be read ({type(error).__name__}: {error})")


def _of_run(part: str, run: Run) -> Iterator[Graph]:
    for name, content in run.graphs:
        graph, step = Recorded.from_json(content), content.get("step")
        if graph.operators:
            yield Graph(
                name=f"{part}-{name}" if part != "run" else name,
                finding=str(content.get("finding", "")),
                step=int(step) if step is not None else None,
                graph=graph,
                of=of(part, run),
            )
