"""Users without a history: attention over their padding is told, be it masked by count or by id."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
ITEMS, WIDTH = 50, 8


class Interest(nn.Module):
    """Target attention over what was clicked; `made` says what an empty history comes to."""

    def __init__(self, counted: bool, made: str) -> None:
        super().__init__()
        self.item = nn.Embedding(ITEMS, 8, padding_idx=0 if made == "padding" else None)
        self.score, self.head = nn.Linear(16, 1), nn.Linear(16, 1)
        self.counted, self.made = counted, made

    def forward(self, target: Tensor, clicks: Tensor, n_clicks: Tensor) -> Tensor:
        seen = torch.arange(WIDTH) < n_clicks[:, None] if self.counted else clicks > 0
        wanted, known = self.item(target), self.item(clicks)
        both = torch.cat([wanted[:, None].expand_as(known), known], -1)
        weights = self.score(both).squeeze(-1).masked_fill(~seen, -1e9).softmax(-1)
        if self.made == "zeros":
            weights = weights * seen
        interest = (weights[..., None] * known).sum(1)
        out: Tensor = self.head(torch.cat([wanted, interest], -1))
        return out.squeeze(-1)


def predict(model: nn.Module, b: Batch) -> Tensor:
    out: Tensor = model(b["target"], b["clicks"], b["n_clicks"])
    return out


def loss(model: nn.Module, b: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(predict(model, b), b["clicked"])


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize(
    ("made", "told"), [("average", True), ("zeros", False), ("padding", False)]
)
def test_the_average_of_an_empty_history_is_told(counted: bool, made: str, told: bool) -> None:
    seed_everything(0)
    count = torch.randint(1, WIDTH + 1, (24,))
    count[[9, 14]] = 0
    clicks = torch.randint(1, ITEMS, (24, WIDTH)) * (torch.arange(WIDTH) < count[:, None])
    target, clicked = torch.randint(1, ITEMS, (24,)), torch.randint(2, (24,)).float()
    batch = {"target": target, "clicks": clicks, "n_clicks": count, "clicked": clicked}
    subject = Subject(Interest(counted, made), [batch], loss, adam, predict=predict)
    found = check(subject, chosen(only=["MSK005"])).findings
    assert bool(above_a_note(found)) == told


def above_a_note(found: tuple[Finding, ...] | list[Finding]) -> list[Finding]:
    return [each for each in found if each.verdict.rank > Verdict.NOTE.rank]
