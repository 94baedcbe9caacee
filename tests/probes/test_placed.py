"""Labels that are matched or aligned to outputs have no places there that padding could be of."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
ROWS, PLACES, KINDS = 12, 4, 5


class Finder(nn.Module):
    """Scores of the kinds and of nothing, and where, of as many queries as there are places."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, PLACES * 8))
        self.kind, self.where = nn.Linear(8, KINDS + 1), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        queries = self.body(x).view(-1, PLACES, 8)
        own = torch.arange(PLACES) / PLACES
        return self.kind(queries), own + 0.1 * self.where(queries)[..., 0].tanh()


class Frames(nn.Module):
    """Scores of classes, frame by frame."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(3, 16, batch_first=True), nn.Linear(16, KINDS)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x)[0])
        return scores


def said(model: nn.Module, batch: Batch, loss: Loss) -> list[str]:
    def adam(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.01)

    found = check(Subject(model, [batch], loss, adam), chosen(["LBL003"])).findings
    return [each.message for each in found]


def padded(places: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """How many labels each row has, and the labels; padding is -1."""
    count = torch.arange(ROWS) % 3 + 1
    labels = torch.randint(first, KINDS, (ROWS, places))
    return count, labels.masked_fill(torch.arange(places) >= count[:, None], -1)


@pytest.mark.parametrize("near", [0.0, 1.0, 50.0])
def test_labels_that_are_matched_to_queries_are_scored_nowhere_else(near: float) -> None:
    """However near a query must be: of near 50, query after query takes its own label."""
    seed_everything(0)
    count, kind = padded(PLACES)
    where = (torch.arange(PLACES) / PLACES).expand(ROWS, -1) + 0.02 * torch.rand(ROWS, PLACES)
    batch = {"x": torch.randn(ROWS, 16), "kind": kind, "where": where, "count": count}

    def loss(model: nn.Module, b: Batch) -> Tensor:
        scores, places = model(b["x"])
        gold, far = torch.full((ROWS, PLACES), KINDS), scores.new_zeros(())
        for row, n in enumerate(b["count"].tolist()):
            apart = (places[row][:, None] - b["where"][row, :n]).abs()
            cost = near * apart.detach() - scores[row].softmax(-1)[:, b["kind"][row, :n]].detach()
            every = permutations(range(PLACES), n)
            best = min(every, key=lambda at: float(cost[list(at), range(n)].sum()))
            gold[row, list(best)] = b["kind"][row, :n]
            far = far + apart[list(best), range(n)].sum()
        return F.cross_entropy(scores.transpose(1, 2), gold) + far

    assert said(Finder(), batch, loss) == []


@pytest.mark.parametrize("places", [KINDS, 12])
def test_labels_that_are_aligned_to_frames_are_scored_nowhere_else(places: int) -> None:
    seed_everything(0)
    count, labels = padded(places, first=1)
    batch = {"x": torch.randn(ROWS, 12, 3), "labels": labels, "count": count}

    def loss(model: nn.Module, b: Batch) -> Tensor:
        scores = model(b["x"]).log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(scores, b["labels"].clamp_min(0), torch.full((ROWS,), 12), b["count"])

    assert said(Frames(), batch, loss) == []


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("counted", [False, True])
def test_a_term_that_counts_ignored_places_is_told_wherever_labels_stand(
    shift: int, counted: bool
) -> None:
    seed_everything(0)
    count, tags = torch.arange(ROWS) % 5 + 4, torch.randint(0, KINDS, (ROWS, 12))
    tags = tags.masked_fill(torch.arange(12) >= count[:, None], -100)

    def loss(model: nn.Module, b: Batch) -> Tensor:
        scores, gold = model(b["x"])[:, : 12 - shift], b["tags"][:, shift:]
        keep = (gold != -100)[..., None] | counted
        shares = scores.softmax(-1) * keep
        ones = F.one_hot(gold.clamp_min(0), KINDS) * keep
        dice = 2 * (shares * ones).sum((0, 1)) / (shares + ones).sum((0, 1))
        return F.cross_entropy(scores.flatten(0, 1), gold.flatten()) - dice.mean()

    batch = {"x": torch.randn(ROWS, 12, 3), "tags": tags}
    found = said(Frames(), batch, loss)
    assert any("whose `tags` is -100" in message for message in found) is counted
