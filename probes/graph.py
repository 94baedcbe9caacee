"""The autograd graph of a step: what made what, in which module, and the way from a culprit."""

from __future__ import annotations

import bisect
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from probes.operator_mode import OperatorMode
from probes.stepping.roots import noted_starts

MOST, NEAR, LONG = 60, 2, 36  # nodes of a cut graph, steps from the way, nodes of the way
LEAF = "AccumulateGrad"

Where = tuple[str, str | None]
"""A module's dotted name, and `file.py:line`."""


@dataclass(frozen=True, slots=True)
class Operator:
    """A node of the graph, one operator of the forward pass and its backward.

    name: unique and stable, such as `head.AddmmBackward0-1`. reads: names of what it read, in
    order. parameter: whose gradient it adds up, of an AccumulateGrad. sequence: counted from the
    step's begin; None of a parameter. guilty: on the way from the culprit to the loss.
    omitted: how many operators of the way it stands for.
    """

    name: str
    op: str
    site: str
    source: str | None
    reads: tuple[str, ...]
    parameter: str | None = None
    shape: tuple[int, ...] = ()
    sequence: int | None = None
    guilty: bool = False
    omitted: int = 0


@dataclass(frozen=True, slots=True)
class Graph:
    """operators: the first is what the step minimises. total: of the graph before it was cut."""

    operators: tuple[Operator, ...]
    total: int

    def as_json(self) -> dict[str, Any]:
        """As the record holds it."""
        return {"total": self.total, "operators": [asdict(each) for each in self.operators]}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Graph:
        """The graph that `as_json` wrote."""
        made = []
        for each in row["operators"]:
            known = {name: each[name] for name in Operator.__dataclass_fields__ if name in each}
            known |= {name: tuple(known[name]) for name in ("reads", "shape") if name in known}
            made.append(Operator(**known))
        return cls(tuple(made), int(row["total"]))


class Trace(OperatorMode):
    """Run a step inside it; then `graph` is that of its first backward pass.

    here: tells where the code that is running stands. Nothing that is computed is changed.
    """

    def __init__(self, model: nn.Module, here: Callable[[], Where]) -> None:
        super().__init__()
        self.begin = next_sequence()
        self._here = here
        self._parameters = {id(each): name for name, each in model.named_parameters()}
        self._sequences: list[int] = []
        self._places: list[Where] = []
        self._roots: list[Any] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """What a backward pass starts from is noted from here on."""
        self._open.enter_context(noted_starts(self._start))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Backward passes are as they were."""
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._open.close()

    def _start(self, roots: Sequence[Tensor], given: Any) -> None:
        if not self._roots:
            self._roots = [root.grad_fn for root in roots if root.grad_fn is not None]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator has run, and where its autograd node was made is known."""
        sequence = next_sequence() - 1
        if not self._sequences or sequence > self._sequences[-1]:
            self._sequences.append(sequence)
            self._places.append(self._here())
        return func(*args, **(kwargs or {}))

    @property
    def graph(self) -> Graph | None:
        """Every operator that the backward pass walks; None where there was no such pass."""
        if not self._roots:
            return None
        nodes = _walked(self._roots)
        names = dict(zip(nodes, self._names(list(nodes)), strict=True))
        operators = tuple(self._operator(node, reads, names) for node, reads in nodes.items())
        return Graph(operators, len(operators))

    def _operator(self, node: Any, reads: Sequence[Any], names: Mapping[Any, str]) -> Operator:
        site, source = self._place(node)
        variable = getattr(node, "variable", None)
        return Operator(
            name=names[node],
            op=_kind(node),
            site=site,
            source=source,
            reads=tuple(names[each] for each in reads),
            parameter=self._parameters.get(id(variable)),
            shape=tuple(variable.shape) if isinstance(variable, Tensor) else (),
            sequence=None if _kind(node) == LEAF else node._sequence_nr() - self.begin,
        )

    def _place(self, node: Any) -> Where:
        name = self._parameters.get(id(getattr(node, "variable", None)))
        if name is not None:
            return name.rpartition(".")[0] or "model", None
        if _kind(node) == LEAF:
            return "<loss>", None
        found = bisect.bisect_right(self._sequences, node._sequence_nr()) - 1
        return self._places[found] if found >= 0 else ("<loss>", None)

    def _names(self, nodes: Sequence[Any]) -> Iterator[str]:
        """A parameter's own name, or the module, the operator and its number there, in order."""
        taken: Counter[str] = Counter()
        order = sorted(range(len(nodes)), key=lambda at: (nodes[at]._sequence_nr(), at))
        found: dict[int, str] = {}
        for at in order:
            own = self._parameters.get(id(getattr(nodes[at], "variable", None)))
            stem = own or f"{self._place(nodes[at])[0]}.{_kind(nodes[at])}"
            taken[stem] += 1
            found[at] = stem if own and taken[stem] == 1 else f"{stem}-{taken[stem]}"
        return (found[at] for at in range(len(nodes)))


def next_sequence() -> int:
    """The number that the next autograd node will have."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]


def _kind(node: Any) -> str:
    return str(node.name()).rpartition("::")[2]


def _walked(roots: Iterable[Any]) -> dict[Any, list[Any]]:
    """Every node with those that it read, breadth first; no recursion, however deep."""
    found: dict[Any, list[Any]] = {}
    queue = deque(roots)
    while queue:
        node = queue.popleft()
        if node not in found:
            found[node] = [each for each, _ in node.next_functions if each is not None]
            queue.extend(found[node])
    return found


def blamed(graph: Graph, culprits: Sequence[int], parameter: str | None = None) -> Graph:
    """The graph with the way from the culprit to the loss marked; as it was where it has none.

    culprits: sequence numbers, counted from the step's begin, the likeliest first. parameter: the
    culprit's name, where it is one.
    """
    by_sequence = {
        each.sequence: each.name for each in graph.operators if each.sequence is not None
    }
    start = next((each.name for each in graph.operators if each.parameter == parameter), None)
    if parameter is None or start is None:
        start = next((by_sequence[each] for each in culprits if each in by_sequence), None)
    if start is None:
        return graph
    way = set(_way(graph, start))
    return replace(
        graph, operators=tuple(replace(o, guilty=o.name in way) for o in graph.operators)
    )


def _way(graph: Graph, start: str) -> list[str]:
    """The shortest way from the operator to the first one, both included."""
    reads = {each.name: each.reads for each in graph.operators}
    root = graph.operators[0].name
    before: dict[str, str | None] = {root: None}
    queue = deque([root])
    while queue and start not in before:
        name = queue.popleft()
        for each in reads[name]:
            if each not in before:
                before[each] = name
                queue.append(each)
    way: list[str] = []
    at: str | None = start if start in before else None
    while at is not None:
        way.append(at)
        at = before[at]
    return way


def cut(graph: Graph, most: int = MOST) -> Graph:
    """The graph, of at most about so many operators: the guilty way and what is near it.

    A long way has its middle left out. Where nothing is guilty, what is near the loss is kept.
    """
    if len(graph.operators) <= most:
        return graph
    by_name = {each.name: each for each in graph.operators}
    start = next((each.name for each in reversed(graph.operators) if each.guilty), None)
    guilty = {each.name for each in graph.operators if each.guilty}
    way = [name for name in _way(graph, start) if name in guilty] if start else []
    way = way[::-1] or [graph.operators[0].name]  # from the loss to the culprit
    left_out = way[LONG // 2 : -LONG // 2] if len(way) > LONG else []
    gone = set(left_out)
    kept = dict.fromkeys(name for name in way if name not in gone)
    kept = dict.fromkeys(_neighbours(graph, kept, gone, most))
    gap = _gap(way, left_out)
    made = []
    for name in kept:
        reads = tuple(each for each in by_name[name].reads if each in kept)
        bridge = gap is not None and left_out[0] in by_name[name].reads and name in guilty
        made.append(replace(by_name[name], reads=(*reads, gap.name) if bridge and gap else reads))
    return Graph((*made, *([gap] if gap is not None else [])), graph.total)


def _gap(way: Sequence[str], left_out: Sequence[str]) -> Operator | None:
    if not left_out:
        return None
    after = way[way.index(left_out[-1]) + 1]
    words = f"{len(left_out)} more"
    return Operator(words, words, "", None, (after,), guilty=True, omitted=len(left_out))


def _neighbours(graph: Graph, kept: Iterable[str], left_out: set[str], most: int) -> Iterator[str]:
    """Those that are kept, then what they read and what reads them, nearest first."""
    reads = {each.name: each.reads for each in graph.operators}
    readers: dict[str, list[str]] = {}
    for each in graph.operators:
        for name in each.reads:
            readers.setdefault(name, []).append(each.name)
    queue = deque((name, 0) for name in kept)
    seen = {name for name, _ in queue}
    count = 0
    while queue:
        name, far = queue.popleft()
        count += 1
        yield name
        near = (*reads[name], *readers.get(name, ())) if far < NEAR else ()
        for each in near:
            if each not in seen and each not in left_out and len(seen) < most:
                seen.add(each)
                queue.append((each, far + 1))


def traced(
    run: Callable[[Sequence[AbstractContextManager[Any]]], object],
    model: nn.Module,
    here: Callable[[], Where],
) -> Graph | None:
    """The graph of a step that `run` runs under the contexts that it is given.

    The trace is made only when it is entered, once the step's start has been restored.
    """
    traces: list[Trace] = []

    @contextmanager
    def under() -> Iterator[None]:
        traces.append(Trace(model, here))
        with traces[-1]:
            yield

    run([under()])
    return traces[-1].graph
