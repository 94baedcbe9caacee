"""Batches of samples that have as many rows as they like: how they are cut, and who meets whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.experiment import Experiment
from probes.finding import Finding, Verdict
from probes.masking.owners import owners
from probes.masking.packed import cut, few
from probes.seeding import seed_everything

COUNT = 12


@dataclass
class Graph:
    """A tree: each node but the first hangs on another."""

    x: Tensor
    parent: Tensor
    kind: int


def graphs(seed: int = 0) -> list[Graph]:
    chance = torch.Generator().manual_seed(seed)
    found = []
    for each in range(COUNT):
        nodes = int(torch.randint(1, 9, (1,), generator=chance)) if each else 5
        parent = [
            max(0, int(torch.randint(0, i + 1, (1,), generator=chance)) - 1) for i in range(nodes)
        ]
        found.append(Graph(torch.randn(nodes, 4, generator=chance), torch.tensor(parent), each % 3))
    return found


def collated(parts: Sequence[Graph]) -> dict[str, Any]:
    """As torch_geometric does it: edges, parents and offsets count on from graph to graph."""
    sizes = torch.tensor([len(each.x) for each in parts])
    ptr = F.pad(sizes.cumsum(0), (1, 0))
    parent = torch.cat([each.parent + int(ptr[i]) for i, each in enumerate(parts)])
    real = parent != torch.arange(len(parent))  # the first hangs on itself, which is no edge
    return {
        "x": torch.cat([each.x for each in parts]),
        "edge_index": torch.stack([parent, torch.arange(len(parent))])[:, real],
        "edge_attr": torch.cat([each.x for each in parts])[real][:, 0],
        "parent": parent,
        "batch": torch.arange(len(parts)).repeat_interleave(sizes),
        "ptr": ptr,
        "y": torch.tensor([each.kind for each in parts]),
        "names": [f"graph of {len(each.x)}" for each in parts],
        "num_graphs": len(parts),
        "num_nodes": torch.tensor(len(parent)),
        "rate": 0.5,
    }


class Net(nn.Module):
    """Messages along edges and from parents, and a mean over each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.message, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        start, end = batch["edge_index"]
        sent = self.message(batch["x"])[start] * batch["edge_attr"][:, None]
        out = self.own(batch["x"]).index_add(0, end, sent).relu()
        out = out + out[batch["parent"]]
        pooled = torch.zeros(batch["num_graphs"], 8).index_add(0, batch["batch"], out)
        scores: Tensor = self.head(pooled / batch["ptr"].diff()[:, None])
        return scores


def subject(batch: dict[str, Any], order: str = "own", model: nn.Module | None = None) -> Subject:
    """order: of the scores, beside the labels."""

    def loss(model: nn.Module, b: dict[str, Any]) -> Tensor:
        scores, kind = model(b), b["y"]
        back = {"own": slice(None), "sorted": b["ptr"].diff().argsort(stable=True)}.get(order)
        if order == "both sorted":
            by_size = b["ptr"].diff().argsort(stable=True)
            return F.cross_entropy(scores[by_size], kind[by_size])
        return F.cross_entropy(scores.flip(0) if back is None else scores[back], kind)

    seed_everything(0)
    return Subject(
        model or Net(),
        [batch],
        loss,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        predict=lambda model, b: model(b),
    )


@pytest.mark.parametrize("samples", [(0, 1, 2), (3, 7, 8, 11), (9, 10, 11)])
def test_what_is_cut_is_what_would_have_been_collated(samples: tuple[int, ...]) -> None:
    parts = graphs()
    experiment = Experiment.of(subject(collated(parts)))
    owned = owners(experiment)
    assert owned is not None
    found, wanted = cut(experiment.batch, owned, samples), collated([parts[i] for i in samples])
    assert isinstance(found, dict)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        same = torch.equal(found[key], value) if isinstance(value, Tensor) else found[key] == value
        assert same, key


@pytest.mark.parametrize(
    "more",
    [
        {"weight": torch.rand(3)},
        {"names": ["a", "b"]},
        {"negative": torch.arange(40).reshape(2, 20)},
    ],
    ids=["of other length", "list", "pairs across"],
)
def test_what_cannot_be_known_is_not_cut(more: dict[str, Any]) -> None:
    experiment = Experiment.of(subject(collated(graphs()) | more))
    owned = owners(experiment)
    assert owned is not None
    assert cut(experiment.batch, owned, (1, 2, 3)) is None


class Placed(Net):
    """Graphs are told apart by where they stand in the batch."""

    def forward(self, batch: dict[str, Any]) -> Tensor:
        return super().forward(batch) + torch.arange(batch["num_graphs"])[:, None].sin()


def test_few_samples_are_taken_where_they_give_what_they_gave() -> None:
    for model, kept in ((Net(), 7), (Placed(), COUNT)):
        experiment = Experiment.of(subject(collated(graphs()), model=model))
        owned = owners(experiment)
        assert owned is not None
        found = few(experiment, owned)
        assert found is not None
        assert found.owned.size == kept


def pairing(order: str) -> list[Finding]:
    judged = check(subject(collated(graphs()), order), chosen(only=["IDX002"]))
    assert not judged.not_judged
    return list(judged.findings)


@pytest.mark.parametrize(
    ("order", "words"), [("sorted", "as if sorted by length, shortest first"), ("flip", "reversed")]
)
def test_graphs_that_are_scored_against_others_labels_are_told(order: str, words: str) -> None:
    (finding,) = pairing(order)
    assert finding.verdict is Verdict.WARN
    assert words in finding.message
    assert "`batch` says which sample a row is of is a guess" in finding.fix


@pytest.mark.parametrize("order", ["own", "both sorted"])
def test_graphs_that_meet_their_own_labels_are_silent(order: str) -> None:
    assert pairing(order) == []


class Pieces(nn.Module):
    """A sum over each sample's tokens, weighed by a softmax of its own, or over all tokens."""

    def __init__(self, over_all: bool) -> None:
        super().__init__()
        self.over_all = over_all
        self.table, self.weigh, self.head = nn.Embedding(9, 4), nn.Linear(4, 1), nn.Linear(4, 2)

    def forward(self, ids: Tensor, ends: Tensor) -> Tensor:
        of = torch.arange(len(ends) - 1).repeat_interleave(ends.diff())
        rows = self.table(ids)
        weight = self.weigh(rows).exp()
        total = torch.zeros(len(ends) - 1, 1).index_add(0, of, weight)[of]
        weight = weight / (weight.sum() if self.over_all else total)
        summed = torch.zeros(len(ends) - 1, 4).index_add(0, of, weight * rows)
        scores: Tensor = self.head(summed)
        return scores


@pytest.mark.parametrize("over_all", [False, True], ids=["own", "all"])
@pytest.mark.parametrize("flip", [False, True], ids=["own labels", "others"])
def test_samples_are_known_by_where_they_begin(over_all: bool, flip: bool) -> None:
    seed_everything(0)
    ends = F.pad(torch.tensor([3, 6, 2, 4, 5, 1, 7, 3, 2]).cumsum(0), (1, 0))
    batch = {"ids": torch.randint(9, (33,)), "cu_seqlens": ends, "y": torch.arange(9) % 2}

    def loss(model: nn.Module, b: dict[str, Tensor]) -> Tensor:
        scores = model(b["ids"], b["cu_seqlens"])
        return F.cross_entropy(scores, b["y"].roll(1) if flip else b["y"])

    judged = check(
        Subject(
            Pieces(over_all),
            [batch],
            loss,
            lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
            predict=lambda model, b: model(b["ids"], b["cu_seqlens"]),
        ),
        chosen(only=["MSK002"] if over_all else ["IDX002", "MSK002"]),
    )
    told = ["MSK002"] * over_all + ["IDX002"] * (flip and not over_all)
    assert [each.code for each in judged.findings] == told
    assert not judged.not_judged


def test_sentences_of_one_text_are_no_samples() -> None:
    ends = F.pad(torch.tensor([3, 6, 2, 4]).cumsum(0), (1, 0))
    batch = {"ids": torch.randint(9, (15,)), "sentence_ptr": ends, "y": torch.arange(4) % 2}
    experiment = Experiment.of(subject(batch, model=nn.Linear(2, 2)))
    assert owners(experiment) is None
    assert owners(Experiment.of(subject(batch | {"ptr": ends}, model=nn.Linear(2, 2)))) is not None
