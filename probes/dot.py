"""A graph as Graphviz takes it: torchviz draws it, modules become clusters, the way is painted."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from probes.errors import RequestError
from probes.graph import Graph, Operator

INK, BAD, SOFT = "#010203", "#a10007", "#a10006"  # a page puts its own colours there
SECONDS = 60


def dot_source(graph: Graph) -> str:
    """The graph in Graphviz's own language; equal graphs give equal text.

    make_dot recurses, so that a graph of thousands of operators is to be cut before.
    """
    drawn = _torchviz(_root(graph))
    names = {str(id(node)): operator for operator, node in drawn[1].items()}
    nodes: dict[str, list[str]] = {}
    edges: list[str] = []
    for line in drawn[0]:
        ends = re.findall(r"(?<![\w.])\d{6,}(?![\w.])", line.split("[")[0])
        known = [names[end] for end in ends if end in names]
        if "->" in line and len(known) == 2:
            edges.append(_edge(*known))
        elif "->" not in line and len(known) == 1:
            nodes.setdefault(known[0].site, []).append(_node(known[0]))
    return "\n".join(_lines(nodes, edges))


class _Stand:
    """Stands for an autograd node, or its output, before make_dot: its class's name is shown."""

    def __init__(self) -> None:
        self.next_functions: list[tuple[Any, int]] = []
        self.grad_fn: Any = None

    def size(self) -> tuple[int, ...]:
        return ()

    def _is_view(self) -> bool:
        return False


def _root(graph: Graph) -> tuple[_Stand, dict[Operator, _Stand]]:
    stands = {each.name: type(each.op, (_Stand,), {})() for each in graph.operators}
    for each in graph.operators:
        stands[each.name].next_functions = [(stands[name], 0) for name in each.reads]
    root = _Stand()
    root.grad_fn = stands[graph.operators[0].name]
    for each in graph.operators[1:]:  # what the cut took off from the first one
        if not any(each.name in other.reads for other in graph.operators):
            root.grad_fn.next_functions.append((stands[each.name], 1))
    return root, {each: stands[each.name] for each in graph.operators}


def _torchviz(
    rooted: tuple[_Stand, dict[Operator, _Stand]],
) -> tuple[list[str], dict[Operator, _Stand]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchviz reads versions by distutils
        from torchviz import make_dot

        return make_dot(rooted[0]).body, rooted[1]


def _lines(nodes: dict[str, list[str]], edges: list[str]) -> Iterator[str]:
    yield "digraph {"
    yield f'graph [rankdir=TB, nodesep=0.25, ranksep=0.3, fontname=Helvetica, fontsize=10, color="{SOFT}", fontcolor="{INK}"];'  # noqa: E501
    yield f'node [shape=box, style=rounded, fontname=Helvetica, fontsize=10, height=0.3, margin="0.14,0.05", color="{INK}", fontcolor="{INK}"];'  # noqa: E501
    yield f'edge [arrowsize=0.6, color="{SOFT}"];'
    for place, (site, lines) in enumerate(nodes.items()):
        if site:
            yield f"subgraph cluster_{place} {{ label={_quoted(site)}; style=rounded;"
        yield from lines
        if site:
            yield "}"
    yield from edges
    yield "}"


def _node(operator: Operator) -> str:
    words = [operator.parameter or operator.op.removesuffix("0")]
    if operator.shape:
        words.append(" x ".join(map(str, operator.shape)))
    if operator.source:
        words.append(operator.source)
    label = "\\n".join(_escaped(_short(each)) for each in words)
    more = ""
    if operator.guilty:
        more = f', color="{BAD}", penwidth=2.4, fontcolor="{BAD}"'
    elif operator.parameter:
        more = ", shape=ellipse"
    if operator.omitted:
        more += ", style=dashed"
    return f'{_quoted(operator.name)} [label="{label}"{more}];'


def _edge(start: Operator, end: Operator) -> str:
    bad = start.guilty and end.guilty
    more = f' [color="{BAD}", penwidth=2.4]' if bad else ""
    return f"{_quoted(start.name)} -> {_quoted(end.name)}{more};"


def _short(words: str, most: int = 40) -> str:
    return words if len(words) <= most else f"{words[: most // 3]}…{words[-(2 * most // 3) :]}"


def _escaped(words: str) -> str:
    plain = "".join(char if char.isprintable() else " " for char in words)
    return plain.replace("\\", "\\\\").replace('"', '\\"')


def _quoted(words: str) -> str:
    return f'"{_escaped(words)}"'


def renderer() -> str | None:
    """The path of the system's `dot`; failing that, of graphviz-pure, a dependency of ours."""
    found = shutil.which("dot") or shutil.which("graphviz-pure")
    if found is not None:
        return found
    try:
        files = metadata.files("graphviz-pure") or []
    except metadata.PackageNotFoundError:
        return None
    places = (str(file.locate()) for file in files if file.stem == "graphviz-pure")
    return next((place for place in places if shutil.which(place)), None)


def dot_svg(source: str) -> str:
    """The picture of a graph in Graphviz's language, as SVG.

    Raises RequestError where there is no program to draw it, or it fails.
    """
    program = renderer()
    if program is None:
        raise RequestError(
            "neither `dot` nor `graphviz-pure` was found: install Debian's package (`apt-get "
            "install graphviz`), or `pip install graphviz-pure`."
        )
    try:
        done = subprocess.run(
            [program, "-Tsvg"], input=source, capture_output=True, text=True, timeout=SECONDS,
            check=False, encoding="utf-8",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RequestError(f"`{program}` did not draw the graph: {error}") from error
    if done.returncode or "<svg" not in done.stdout:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RequestError(f"`{program}` did not draw the graph: {said}")
    return done.stdout[done.stdout.index("<svg") :]
