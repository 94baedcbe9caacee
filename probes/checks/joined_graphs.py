"""IDX008: edges that join nodes of different graphs of a batch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.masking.owners import NAMED, counts_up
from probes.reading.alive import alive
from probes.reading.rows import looked

EDGES = re.compile(r"edge|link|adj|bond|(^|_)arcs?(_|$)", re.IGNORECASE)
ASKED = re.compile(r"neg|label|target", re.IGNORECASE)  # pairs of which it is asked, not told
FEW = 8  # edges that say too little


@dataclass(frozen=True, slots=True)
class _Joined:
    """Over batches: edges, those between graphs; nodes, those after the last that an edge names.

    batches: how many there are, and how many have edges between graphs. first: such an edge, with
    the graphs of its two nodes.
    """

    edges: int
    across: int
    nodes: int
    after: int
    batches: tuple[int, int]
    first: tuple[int, ...] | None

    @property
    def unmoved(self) -> bool:
        """Whether most nodes stand after the last that an edge names: numbers begin anew."""
        return 2 * self.after > self.nodes


@dataclass(frozen=True, slots=True)
class JoinedGraphs:
    """Small graphs are laid one after the other in a batch, and edges lead from one to another.

    A key that counts up, 0, 0, 0, 1, 1, 2, says whose each node is; a key of pairs says which
    nodes are joined. Each graph's numbers must be moved on by the nodes before it: by as many as
    there are, not by the highest that has an edge. Where all edges lead from graph to graph, they
    are meant to. A key that is not called after the graphs might be a time, from step to step of
    which edges lead: there the last nodes must be named by no edge as well, as where numbers are
    moved on too little. Where most nodes stand after the last with an edge, all begin anew.

    Sick: `offset += edges.max() + 1`, with atoms that have no bond.
    Healthy: `offset += len(atoms)`.
    """

    most: float = 0.9  # of the edges: where more lead across, they are meant to

    code: ClassVar[str] = "IDX008"
    rule: ClassVar[str] = "joined-graphs"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A key that says whose each node is, and one of pairs of them."""
        if not any(True for _ in _pairs(experiment)):
            return "no key says whose graph each node is, beside a key of pairs of nodes"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of edges."""
        said = set()
        for owner, key in _pairs(experiment):
            found = _joined(experiment, owner, key)
            if key in said or found is None or found.across > self.most * found.edges:
                continue
            named = bool(NAMED.search(owner.rpartition(".")[2]))
            usual = found.across > 0 and 2 * found.batches[1] >= found.batches[0]
            if found.unmoved or (usual and (named or found.after)):
                said.add(key)
                yield self._finding(owner, key, found)

    def _finding(self, owner: str, key: str, found: _Joined) -> Finding:
        words = f"the last {found.after} of {found.nodes} nodes are in no edge of `{key}`"
        if found.first is not None:
            one, two, left, right = found.first
            words = (
                f"{found.across} of {found.edges} edges in `{key}` join nodes of different graphs "
                f"by `{owner}`, such as node {one}, of graph {left}, and {two}, of {right}"
            ) + (f"; {words}" if found.after else "")
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"edges are not laid out as the nodes are: {words}.",
            fix="Move each graph's numbers on by how many nodes stand before it, whether or not "
            "an edge names them.",
            site="<data>",
            phase="data",
            samples=None if found.first is None else found.first[2:],
            where={} if found.first is None else {"node": found.first[0]},
            evidence=(
                Evidence("edges between graphs", found.across, 0, f"of {found.edges}"),
                Evidence("nodes after the last that has an edge", found.after, None),
            ),
        )


def _pairs(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """The keys of graphs and of edges between the nodes that they are of."""
    whole = {
        key: tensor
        for key, tensor in experiment.tensors.items()
        if not tensor.is_floating_point() and tensor.dtype is not torch.bool and tensor.numel()
    }
    for owner, values in whole.items():
        if not counts_up(values):
            continue
        for key, edges in whole.items():
            ends, name = _ends(edges, len(values)), key.rpartition(".")[2]
            if ends is None or ASKED.search(name):
                continue
            picked = _picked(experiment, ends, len(values))
            known = {len(values), ends.shape[1], int(values[-1]) + 1}
            rows = [len(t) for t in experiment.tensors.values() if t.ndim and t is not edges]
            others = any(count >= FEW and count not in known for count in rows)
            if picked == 2 or (not others and (picked or EDGES.search(name))):
                yield owner, key  # with rows of another kind, either end may be one of those


def _ends(edges: Tensor, nodes: int) -> Tensor | None:
    """(2, edge) nodes; None where it is no key of edges between so many."""
    if edges.ndim != 2 or 2 not in edges.shape or edges.numel() < 2 * FEW:
        return None
    ends = edges if len(edges) == 2 else edges.T
    return ends if int(ends.min()) >= 0 and int(ends.max()) < nodes else None


def _picked(experiment: Experiment, ends: Tensor, nodes: int) -> int:
    """By how many of the ends rows of so many are picked; none where of another number."""
    if LOSS not in experiment.evaluated.ran.outputs:
        return 0
    found = [
        {
            len(pick.source)
            for pick in alive(experiment).picks
            if pick.axis == 0 and torch.equal(pick.index.flatten().long().cpu(), end.long().cpu())
        }
        for end in ends
    ]
    return 0 if any(each - {nodes} for each in found) else sum(map(bool, found))


def _joined(experiment: Experiment, owner: str, key: str) -> _Joined | None:
    edges = across = nodes = after = batches = sick = 0
    first: tuple[int, ...] | None = None
    for batch in looked(experiment):
        values, pairs = batch.get(owner), batch.get(key)
        ends = None if values is None or pairs is None else _ends(pairs, len(values))
        if values is None or ends is None or not counts_up(values):
            continue
        graphs = values[ends.long()]
        apart = (graphs[0] != graphs[1]).nonzero().flatten()
        batches, edges = batches + 1, edges + ends.shape[1]
        across, sick = across + len(apart), sick + (len(apart) > 0)
        nodes, after = nodes + len(values), after + len(values) - 1 - int(ends.max())
        if first is None and len(apart):
            at = int(apart[0])
            first = (*ends[:, at].tolist(), *graphs[:, at].tolist())
    return _Joined(edges, across, nodes, after, (batches, sick), first) if batches else None
