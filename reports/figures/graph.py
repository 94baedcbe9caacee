"""The autograd graph of a refused step: modules as frames, the way to the loss painted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

from probes import graph as recorded
from probes.dot import BAD, INK, SOFT, dot_source, dot_svg
from probes.errors import RequestError
from reports.figures.figure import Figure, Table, identifier


@dataclass(frozen=True, slots=True)
class Graph:
    """One recorded graph. finding: the address of the finding that it belongs to.

    of: how a reader calls the part, after a colon.
    """

    name: str
    finding: str
    step: int | None
    graph: recorded.Graph
    of: str = ""


def draw(graph: Graph) -> Figure:
    """The figure of a graph with at least one operator; without its picture where none is drawn."""
    figure = identifier(graph.name)
    operators = graph.graph.operators
    way = [each for each in operators if each.guilty]
    notes = [
        "Arrows go from what is read to what reads it. The thick red way leads from the origin to "
        "the loss; ellipses are parameters; a frame is a module."
    ]
    shown = sum(1 for each in operators if not each.omitted)
    if shown < graph.graph.total:
        notes.append(
            f"{shown} of {graph.graph.total} operators are drawn: the way, and what is near it."
        )
    try:
        svg = _own(dot_svg(dot_source(graph.graph)), figure)
    except RequestError as error:
        svg = Markup("")
        notes.append(f"There is no picture: {error}")
    at = f", step {graph.step}" if graph.step is not None else ""
    return Figure(
        id=figure,
        title=f"Autograd graph of {graph.finding}{at}{graph.of}"
        if graph.finding
        else "Autograd graph",
        alt=_said(graph.graph, way),
        svg=svg,
        table=_table(operators),
        notes=tuple(notes),
    )


def _table(operators: Iterable[recorded.Operator]) -> Table:
    rows = (
        (
            each.name,
            each.parameter or each.op,
            each.site,
            each.source or "",
            "yes" if each.guilty else "",
            ", ".join(each.reads),
        )
        for each in operators
    )
    return Table(("operator", "node", "module", "line", "on the way", "reads"), tuple(rows))


def _said(graph: recorded.Graph, way: list[recorded.Operator]) -> str:
    if not way:
        return f"{graph.total} operators; the origin is none of them."
    start = next((each for each in reversed(way) if not each.omitted), way[-1])
    at = f" at {start.source}" if start.source else ""
    length = sum(each.omitted or 1 for each in way)
    return (
        f"From the origin, `{start.parameter or start.op}` in `{start.site}`{at}, over {length} "
        f"operators to the loss; the graph has {graph.total}."
    )


def _own(svg: str, prefix: str) -> Markup:
    """The picture in the page's colours, its ids prefixed, without its links and white ground."""
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"|\s+xml:space="[^"]*"', "", svg)
    svg = re.sub(r'<polygon fill="white" stroke="none"[^>]*/>', "", svg, count=1)
    svg = svg.replace(INK, "currentColor").replace(SOFT, "var(--soft)").replace(BAD, "var(--fail)")
    svg = re.sub(r'\bid="', f'id="{prefix}.', svg)
    svg = re.sub(r' font-family="[^"]*"', "", svg)
    box = re.search(r'viewBox="([^"]*)"', svg)
    frame = box.group(1) if box else "0 0 400 400"
    wide = frame.split()[2]
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    return Markup(
        f'<svg class="graph" viewBox="{escape(frame)}" style="width:{escape(wide)}pt">{body}'
    )
