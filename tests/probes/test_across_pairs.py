"""Numbers of the samples that meet columns, of pairs of samples or of features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

SIZE = 9
Batch = dict[str, Tensor]
Loss = Callable[[Any, Batch], Tensor]


class Net(nn.Module):
    """Scores of nodes, or of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.out = nn.Linear(SIZE, 16), nn.Linear(16, SIZE)
        self.edge, self.table = nn.Linear(2, 1), nn.Embedding(SIZE, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)

    def forward(self, x: Tensor, near: Tensor | None = None) -> Tensor:
        h = F.relu(self.own(x))
        scores: Tensor = self.out(h if near is None else near @ h)
        return scores


def of_scores(scores: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(scores, batch["y"])


def by_degrees(model: nn.Module, batch: Batch) -> Tensor:
    """A graph of the samples, normalised on both sides."""
    norm = batch["adj"].sum(1).rsqrt()
    return of_scores(model(batch["x"], norm[:, None] * batch["adj"] * norm), batch)


def with_noise(model: nn.Module, batch: Batch) -> Tensor:
    norm = batch["adj"].sum(1).rsqrt()
    drawn = batch["x"] + torch.randn_like(batch["x"])
    return of_scores(model(drawn, norm[:, None] * batch["adj"] * norm), batch)


def by_edges(model: Any, batch: Batch) -> Tensor:
    """An attention over neighbours, whose own numbers are added to those of the edges."""
    scores = model.edge(batch["edges"]).squeeze(-1) + batch["x"].norm(dim=1)
    near = scores.masked_fill(batch["adj"] == 0, -torch.inf).softmax(-1)
    return of_scores(model(batch["x"], near), batch)


def by_prior(model: nn.Module, batch: Batch) -> Tensor:
    """The prior of each class, which every batch holds."""
    return of_scores(model(batch["x"]) + batch["prior"].log(), batch)


def scaled(model: nn.Module, batch: Batch) -> Tensor:
    """Planted: the norm of each sample meets features, beside a graph."""
    x = batch["x"] / batch["x"].norm(dim=1)
    return of_scores(model(x, batch["adj"] / batch["adj"].sum(1, keepdim=True)), batch)


def of_tokens(model: Any, batch: Batch) -> Tensor:
    """Planted: a weight a sample meets tokens, of which there are as many."""
    scores = model.out(model.rnn(model.table(batch["ids"]))[0])
    each = F.cross_entropy(scores.transpose(1, 2), batch["ids"], reduction="none")
    weighed: Tensor = each * batch["weight"]
    return weighed.mean()


def batches() -> list[Batch]:
    chance = torch.Generator().manual_seed(0)
    prior, found = torch.rand(SIZE, generator=chance) + 0.2, list[Batch]()
    for _ in range(2):
        edges = (torch.rand(SIZE, SIZE, generator=chance) < 0.4).float().triu(1)
        found.append(
            {
                "x": torch.randn(SIZE, SIZE, generator=chance),
                "adj": edges + edges.T + torch.eye(SIZE),
                "edges": torch.rand(SIZE, SIZE, 2, generator=chance),
                "ids": torch.randint(0, SIZE, (SIZE, SIZE), generator=chance),
                "y": torch.randint(0, SIZE, (SIZE,), generator=chance),
                "prior": prior,
                "weight": torch.rand(SIZE, generator=chance) + 0.5,
            }
        )
    return found


def is_told(loss: Loss, *keys: str) -> bool:
    seed_everything(0)
    given = [{key: batch[key] for key in keys} for batch in batches()]
    subject = Subject(Net(), given, loss, lambda m: torch.optim.Adam(m.parameters()))
    judgement = check(subject, chosen(only=["WIR009"]))
    return bool(judgement.findings)


@pytest.mark.parametrize("loss", [by_degrees, with_noise])
def test_a_graph_of_the_samples_is_normalised_by_its_degrees(loss: Loss) -> None:
    assert not is_told(loss, "x", "adj", "y")


def test_numbers_of_neighbours_are_added_to_those_of_edges() -> None:
    assert not is_told(by_edges, "x", "adj", "edges", "y")


def test_a_number_a_class_that_every_batch_holds_is_none_a_sample() -> None:
    assert not is_told(by_prior, "x", "y", "prior")


def test_numbers_of_samples_that_meet_features_are_told_beside_a_graph() -> None:
    assert is_told(scaled, "x", "adj", "y")


def test_numbers_of_samples_that_meet_as_many_tokens_are_told() -> None:
    assert is_told(of_tokens, "ids", "weight")
