"""Graphs of a batch that do not lie along an axis must not depend on one another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

GRAPHS, KINDS, WIDTH = 6, 5, 8
Batch = dict[str, Tensor]
Mix = Callable[["Net", Tensor, Batch], Tensor]


def trees(labels: int = GRAPHS) -> Batch:
    """Of 4 to 9 nodes, whose edges lead both ways and to themselves."""
    sizes = torch.tensor([5, 9, 4, 7, 6, 8])
    start = sizes.cumsum(0) - sizes
    parents = [(torch.arange(1, n) * torch.rand(n - 1)).long() for n in sizes.tolist()]
    edges = []
    for parent, at in zip(parents, start.tolist(), strict=True):
        loops, child = torch.arange(len(parent) + 1), torch.arange(1, len(parent) + 1)
        ends = [torch.cat(each) for each in ((parent, child, loops), (child, parent, loops))]
        edges.append(torch.stack(ends) + at)
    nodes = int(sizes.sum())
    return {
        "kind": torch.randint(KINDS, (nodes,)),
        "place": torch.randn(nodes, 3),
        "parent": torch.cat([F.pad(parent, (1, 0)) for parent in parents]),
        "edges": torch.cat(edges, 1),
        "graph_id": torch.arange(GRAPHS).repeat_interleave(sizes),
        "sizes": sizes,
        "y": torch.randn(labels),
    }


def gathered(x: Tensor, of: Tensor, count: int) -> Tensor:
    return x.new_zeros(count, *x.shape[1:]).index_add(0, of, x)


class Net(nn.Module):
    """Nodes, mixed in one way, and a sum over each graph's."""

    def __init__(self, mix: Mix, keys: str) -> None:
        super().__init__()
        self.mix, self.keys = mix, keys.split()
        self.kind, self.place = nn.Embedding(KINDS, WIDTH), nn.Linear(3, WIDTH)
        self.norm, self.score = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 1)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(KINDS))
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, batch: Batch) -> Tensor:
        x = self.kind(batch["kind"]) if "kind" in batch else self.place(batch["place"])
        x = x + self.mix(self, x, batch)
        pooled = gathered(x, batch["graph_id"], GRAPHS) / batch["sizes"][:, None]
        out: Tensor = self.head(pooled.relu()).squeeze(-1)
        return out


def over_nodes_edges(net: Net, x: Tensor, batch: Batch) -> Tensor:
    """Attention over the edges into each node."""
    source, target = batch["edges"]
    score = (net.score(x)[source] + net.score(x)[target]).tanh()
    weight = (score - score.max()).exp()
    weight = weight / gathered(weight, target, len(x))[target]
    return gathered(weight * x[source], target, len(x))


def over_all_edges(net: Net, x: Tensor, batch: Batch) -> Tensor:
    """Sick."""
    source, target = batch["edges"]
    score = (net.score(x)[source] + net.score(x)[target]).tanh()
    return gathered(score.softmax(0) * x[source], target, len(x))


def less_every_mean(net: Net, x: Tensor, batch: Batch) -> Tensor:
    """Sick."""
    return net.norm(x - x.mean(0))


def less_own_mean(net: Net, x: Tensor, batch: Batch) -> Tensor:
    of, count = batch["graph_id"], batch["sizes"][:, None]
    return net.norm(x - (gathered(x, of, GRAPHS) / count)[of])


def by_expert(net: Net, x: Tensor, batch: Batch) -> Tensor:
    """Rows of a kind together, of which there are more or fewer in other batches."""
    out = torch.zeros_like(x)
    for kind, expert in enumerate(net.experts):
        rows = (batch["kind"] == kind).nonzero().flatten()
        out = out.index_copy(0, rows, expert(x[rows]))
    return out


def from_parent(net: Net, x: Tensor, batch: Batch) -> Tensor:
    """A parent's place among the nodes of its own graph."""
    start = batch["sizes"].cumsum(0) - batch["sizes"]
    above = start[batch["graph_id"]] + batch["parent"]
    return gathered(net.experts[0](x), above, len(x))


def dense(net: Net, x: Tensor, batch: Batch) -> Tensor:
    """Attention over all nodes, those of other graphs hidden."""
    apart = batch["graph_id"][:, None] != batch["graph_id"]
    weights: Tensor = (x @ x.T).masked_fill(apart, -1e9).softmax(-1)
    return weights @ x


def by_distance(net: Net, x: Tensor, batch: Batch) -> Tensor:
    source, target = batch["edges"][:, : -len(x)]
    between = batch["place"][source] - batch["place"][target]
    near = between / between.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return gathered(net.place(near), target, len(x))


def with_its_partner(net: Net, x: Tensor, batch: Batch) -> Tensor:
    """Each graph is compared with the next one, of two."""
    pooled = gathered(x, batch["graph_id"], GRAPHS)
    return pooled.view(-1, 2, WIDTH).flip(1).reshape(GRAPHS, WIDTH)[batch["graph_id"]]


def said(mix: Mix, keys: str, labels: int = GRAPHS) -> list[Finding]:
    seed_everything(0)
    whole = trees(labels)
    held = {key: whole[key] for key in (*keys.split(), "edges", "graph_id", "sizes", "y")}
    subject = Subject(
        Net(mix, keys),
        [held],
        lambda model, b: model(b).square().mean() + b["y"].mean(),
        lambda model: torch.optim.Adam(model.parameters()),
        predict=lambda model, b: model(b),
    )
    return list(check(subject, chosen(["MSK002"])).findings)


@pytest.mark.parametrize("keys", ["kind", "place"])
@pytest.mark.parametrize("mix", [over_all_edges, less_every_mean])
def test_what_runs_over_the_nodes_of_all_graphs_is_told_with_its_line(mix: Mix, keys: str) -> None:
    [found] = said(mix, keys)
    first = mix.__code__.co_firstlineno
    assert found.source is not None
    assert first < int(found.source.rpartition(":")[2]) < first + 6
    assert "`graph_id` says which sample a row is of" in found.fix


@pytest.mark.parametrize(
    ("mix", "keys"),
    [
        (over_nodes_edges, "kind"),
        (over_nodes_edges, "place"),
        (less_own_mean, "kind"),
        (by_expert, "kind"),
        (from_parent, "kind parent"),
        (from_parent, "place parent"),
        (dense, "kind"),
        (by_distance, "place"),
    ],
)
def test_what_keeps_to_its_own_graph_is_well(mix: Mix, keys: str) -> None:
    assert said(mix, keys) == []


def test_graphs_that_are_labelled_by_twos_are_no_samples() -> None:
    assert said(with_its_partner, "kind", GRAPHS // 2) == []
    assert said(with_its_partner, "place", GRAPHS // 2) == []
