"""Conditional random fields, and other losses that take a score from the log of a sum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

TAGS, PLACES = 4, 6
Batch = dict[str, Tensor]


class Field(nn.Module):
    """wrong: what the score of a path has otherwise than the sum."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.scores = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, TAGS))
        self.moves = nn.Parameter(0.1 * torch.randn(TAGS, TAGS))
        self.start, self.end = (nn.Parameter(0.1 * torch.randn(TAGS)) for _ in range(2))

    def forward(self, batch: Batch) -> Tensor:
        scores, tags, keep = self.scores(batch["x"]), batch["tags"], batch["keep"]
        loss: Tensor = -(self.path(scores, tags, keep) - self.whole(scores, keep)).mean()
        return loss

    def path(self, scores: Tensor, tags: Tensor, keep: Tensor) -> Tensor:
        counted = torch.ones_like(keep) if self.wrong == "padding" else keep
        total = (scores.gather(2, tags[:, :, None])[:, :, 0] * counted).sum(1)
        moves = self.moves.index_select(0, tags[:, :-1].flatten())
        moves = moves.gather(1, tags[:, 1:].flatten()[:, None]).view(len(tags), -1)
        last = tags.gather(1, keep.sum(1, keepdim=True).long() - 1)[:, 0]
        return total + (moves * keep[:, 1:]).sum(1) + self.start[tags[:, 0]] + self.end[last]

    def whole(self, scores: Tensor, keep: Tensor) -> Tensor:
        alpha = self.start + scores[:, 0]
        for t in range(1, PLACES):
            now = (alpha[:, :, None] + self.moves + scores[:, t, None]).logsumexp(1)
            alpha = torch.where(keep[:, t, None] > 0, now, alpha)
        return (alpha if self.wrong == "end" else alpha + self.end).logsumexp(1)


class Sentences(Field):
    """One sentence at a time, with the exponentials written out; `moves[to, from]`."""

    def forward(self, batch: Batch) -> Tensor:
        total = batch["x"].new_zeros(1)
        for x, tags in zip(batch["x"], batch["tags"], strict=True):
            scores = self.scores(x)
            gold = scores.new_zeros(1)
            for t in range(PLACES):
                one, two = (tags[t - 1], tags[t]) if t else (tags[t], tags[t])
                if self.wrong == "turned":
                    one, two = two, one
                gold = gold + scores[t, tags[t]] + (self.moves[two, one] if t else 0.0)
            alpha = scores[0]
            for t in range(1, PLACES):
                alpha = _log_sum(alpha[None] + self.moves) + scores[t]
            total = total + _log_sum(alpha[None]) - gold
        loss: Tensor = total.sum() / len(batch["x"])
        return loss


def _log_sum(each: Tensor) -> Tensor:
    largest = each.max(1, keepdim=True).values
    return largest[:, 0] + torch.log(torch.sum(torch.exp(each - largest), 1))


class Rewarded(Field):
    """Beside the loss of the paths stands one that may be below zero."""

    def forward(self, batch: Batch) -> Tensor:
        scores = self.scores(batch["x"])
        spread = torch.distributions.Categorical(logits=scores).entropy().mean()
        loss: Tensor = super().forward(batch) - 3 * spread
        return loss


class Hidden(Field):
    """Densities of a hidden Markov model: they have no largest."""

    def forward(self, batch: Batch) -> Tensor:
        near = torch.distributions.Normal(self.start, self.end.exp())
        seen = near.log_prob(batch["x"][:, :, :1])
        return -self.whole(seen, batch["keep"]).mean()


class Soft(Field):
    """Soft dynamic time warping, less a score."""

    def forward(self, batch: Batch) -> Tensor:
        costs = self.scores(batch["x"]).square()
        paths = -self.whole(-costs, batch["keep"])
        loss: Tensor = (paths - self.scores(batch["x"]).mean((1, 2))).mean()
        return loss


class Negatives(Field):
    """A contrastive loss whose sum leaves the pair itself out, as decoupled ones do."""

    def forward(self, batch: Batch) -> Tensor:
        units: Tensor = F.normalize(self.scores(batch["x"][:, 0]), dim=1)
        alike = units @ units.T
        others = alike.masked_fill(torch.eye(len(units), dtype=torch.bool), -torch.inf)
        return (others.logsumexp(1) - alike.diagonal()).mean()


def said(model: nn.Module) -> list[Finding]:
    batch = {
        "x": torch.randn(9, PLACES, 5),
        "tags": torch.randint(0, TAGS, (9, PLACES)),
        "keep": (torch.arange(PLACES) < torch.randint(2, PLACES + 1, (9, 1))).float(),
    }
    subject = Subject(
        model, [batch], lambda model, b: model(b), lambda m: torch.optim.Adam(m.parameters())
    )
    return list(check(subject, chosen(["WIR042"])).findings)


@pytest.mark.parametrize(
    ("model", "table"),
    [(Field("end"), "`end`"), (Field("padding"), ""), (Sentences("turned"), "`moves`")],
)
def test_a_path_that_the_sum_does_not_have_is_told(model: nn.Module, table: str) -> None:
    seed_everything(0)
    [found] = said(model)
    assert table in found.message
    assert "test_outside_partition.py" in str(found.source)


@pytest.mark.parametrize("model", [Field(), Sentences(), Rewarded(), Hidden(), Soft(), Negatives()])
def test_a_path_that_is_summed_over_and_what_has_no_floor_are_well(model: nn.Module) -> None:
    seed_everything(0)
    assert said(model) == []
