"""Autograd graphs out of a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from probes.graph import Graph as Recorded
from reports.figures.graph import Graph
from reports.reading.stretches import UNREADABLE, Stretch, of


def read_graphs(found: Sequence[Stretch], missing: list[str]) -> Iterator[Graph]:
    """Every graph of every stretch; one that cannot be read is said as missing."""
    for part, run in found:
        try:
            for name, content in run.graphs:
                graph = Recorded.from_json(content)
                if graph.operators:
                    step = content.get("step")
                    yield Graph(
                        name=f"{part}-{name}" if part != "run" else name,
                        finding=str(content.get("finding", "")),
                        step=int(step) if step is not None else None,
                        graph=graph,
                        of=of(part, run),
                    )
        except UNREADABLE as error:
            missing.append(f"a graph of {part} cannot be read ({type(error).__name__}: {error})")
