"""Samples of a batch that cannot be cut, as graphs whose nodes are numbered through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.experiment import Experiment
from probes.finding import Finding, Verdict
from probes.masking.owners import owners
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def said(code: str, model: nn.Module, batch: Batch, loss: Loss, keys: str) -> list[Finding]:
    """What one check says above a note; keys: those that the model takes, in order."""
    subject = Subject(
        model,
        [batch],
        loss,
        sgd,
        predict=lambda each, b: each(*(b[key] for key in keys.split())),
    )
    judged = check(subject, chosen(only=[code]))
    return [each for each in judged.findings if each.verdict.rank > Verdict.NOTE.rank]


class Graphs(nn.Module):
    """Messages along edges, and a mean over each graph's nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.message, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, nodes: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        out = self.own(nodes).index_add(0, edges[1], self.message(nodes)[edges[0]]).relu()
        pooled = torch.zeros(int(graph.max()) + 1, 8).index_add(0, graph, out)
        scores: Tensor = self.head(pooled / graph.bincount()[:, None])
        return scores


class Stacked(Graphs):
    """The same of graphs of as many nodes, their edges in a table of (graph, source, target)."""

    step = 5

    def forward(self, nodes: Tensor, table: Tensor) -> Tensor:
        edges = (table[:, :1] * self.step + table[:, 1:]).T
        return super().forward(nodes.flatten(0, 1), edges, torch.arange(4).repeat_interleave(5))


class Miscounted(Stacked):
    step = 4


@pytest.mark.parametrize("sick", [False, True])
def test_messages_between_graphs_are_told(sick: bool) -> None:
    seed_everything(0)
    kind = torch.tensor([0, 1, 2, 0])
    table = (torch.rand(4, 5, 5) < 0.6).nonzero()
    of, step = torch.arange(4).repeat_interleave(5), 4 if sick else 5
    flat = {"x": torch.randn(20, 4), "edges": (table[:, :1] * step + table[:, 1:]).T, "batch": of}
    stacked = {"nodes": torch.randn(4, 5, 4), "edges": table}

    def loss(keys: str) -> Loss:
        return lambda model, b: F.cross_entropy(model(*(b[k] for k in keys.split())), b["kind"])

    for model, batch, keys in (
        (Graphs(), flat, "x edges batch"),
        (Miscounted() if sick else Stacked(), stacked, "nodes edges"),
    ):
        code = "IDX008" if batch is flat else "MSK002"
        found = said(code, model, batch | {"kind": kind}, loss(keys), keys)
        assert [f.verdict for f in found] == ([Verdict.WARN] if sick else [])
        if batch is flat:  # and it is not told twice
            assert said("MSK002", model, batch | {"kind": kind}, loss(keys), keys) == []


@pytest.mark.parametrize(
    "batch",
    [
        {"x": torch.randn(8, 12, 2), "edges": torch.randint(8, (2, 30)), "y": torch.arange(8)},
        {"x": torch.randn(8, 12, 2), "typed": torch.randint(8, (30, 3))},
        {
            "x": torch.randn(9, 2),
            "segment": torch.arange(9) // 3,
            "edges": torch.zeros(2, 4).long(),
        },
    ],
    ids=["time", "typed", "segments"],
)
def test_nodes_of_one_graph_are_no_samples(batch: Batch) -> None:
    subject = Subject(nn.Linear(2, 2), [batch], lambda model, b: model(b["x"]).sum(), sgd)
    assert owners(Experiment.of(subject)) is None


def laid_out(count: str, seed: int = 0) -> Batch:
    """Sixteen chains of 4 to 8 nodes, of which the last two may have no edge; with a class each.

    count: how far on each next graph's numbers are moved.
    """
    chance = torch.Generator().manual_seed(seed)
    base, edges, owner = 0, [], []
    for graph in range(16):
        nodes = int(torch.randint(4, 9, (1,), generator=chance))
        bound = nodes - int(torch.randint(0, 3, (1,), generator=chance))
        chain = torch.stack([torch.arange(bound - 1), torch.arange(1, bound)])
        edges.append(chain + base)
        owner += [graph] * nodes
        base += {"nodes": nodes, "bound": bound, "none": 0, "less": nodes - 1}[count]
    features = torch.randn(len(owner), 4, generator=chance)
    kind = torch.arange(16) % 3
    return {"x": features, "e": torch.cat(edges, 1), "of": torch.tensor(owner), "kind": kind}


def by_keys(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"], batch["e"], batch["of"]), batch["kind"])


def of_steps(every: bool) -> Batch:
    """Nodes of several times, and edges to the same node one time on; and within one time."""
    at = torch.arange(8).repeat_interleave(6)
    onward = torch.stack([torch.arange(42), torch.arange(6, 48)])
    within = torch.stack([torch.arange(47), torch.arange(1, 48)])
    edges = torch.cat([onward, within[:, at[1:] == at[:-1]]], 1) if not every else onward
    return {"x": torch.randn(48, 4), "e": edges, "of": at, "kind": torch.arange(8) % 3}


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (laid_out("nodes"), 0),
        (laid_out("bound"), 1),
        (laid_out("none"), 1),
        (laid_out("less"), 1),
        (of_steps(every=True), 0),
        (of_steps(every=False), 0),
    ],
    ids=["nodes", "bound", "none", "less", "onward", "in and on"],
)
def test_edges_of_the_batch_that_join_graphs_are_told(batch: Batch, told: int) -> None:
    seed_everything(0)
    found = said("IDX008", Graphs(), batch, by_keys, "x e of")
    assert ["not laid out as the nodes are" in one.message for one in found] == [True] * told


def test_pairs_that_are_asked_for_may_join_graphs() -> None:
    seed_everything(0)
    batch = laid_out("nodes") | {"negative_edges": torch.randint(60, (2, 30))}
    assert said("IDX008", Graphs(), batch, by_keys, "x e of") == []


class Bags(nn.Module):
    """A sum over each bag's rows, by a softmax of them, or of the rows of all bags."""

    def __init__(self, over_all: bool) -> None:
        super().__init__()
        self.over_all = over_all
        self.weigh, self.head = nn.Linear(4, 1), nn.Linear(4, 3)

    def forward(self, rows: Tensor, bag: Tensor) -> Tensor:
        weight = self.weigh(rows).exp()
        count = int(bag.max()) + 1
        total = torch.zeros(count, 1).index_add(0, bag, weight)[bag]
        weight = weight / (weight.sum() if self.over_all else total)
        scores: Tensor = self.head(torch.zeros(count, 4).index_add(0, bag, weight * rows))
        return scores


@pytest.mark.parametrize("mixed", [False, True], ids=["in order", "mixed"])
@pytest.mark.parametrize("over_all", [False, True], ids=["own", "all"])
def test_bags_are_samples_in_any_order_of_their_rows(mixed: bool, over_all: bool) -> None:
    seed_everything(0)
    bag = torch.arange(5).repeat_interleave(torch.tensor([3, 6, 2, 4, 5]))
    bag = bag[torch.randperm(20)] if mixed else bag
    batch = {"rows": torch.randn(20, 4), "bag": bag, "kind": torch.arange(5) % 3}

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(model(b["rows"], b["bag"]), b["kind"])

    found = said("MSK002", Bags(over_all), batch, loss, "rows bag")
    assert ["that `bag` says" in one.fix.lower() for one in found] == [True] * over_all


def test_a_column_of_numbers_is_no_key_of_samples_without_a_row_for_each() -> None:
    batch = {"x": torch.randn(9, 2), "batch": torch.arange(9) % 4, "e": torch.zeros(5, 2).long()}
    subject = Subject(nn.Linear(2, 2), [batch], lambda model, b: model(b["x"]).sum(), sgd)
    assert owners(Experiment.of(subject)) is None
