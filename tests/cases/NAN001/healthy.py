"""The same gate with the smooth form of the entropy, and attention whose mask is a healthy -inf."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Layout, Subject

PLANTED = None
ASKED = {"sizes": (5,), "steps": 300}


class Entropy(nn.Module):
    """- p log p and its limit 0 where p is 0, from the logits."""

    def forward(self, logits: Tensor) -> Tensor:
        return -logits.sigmoid() * nn.functional.logsigmoid(logits)


class Masked(nn.Module):
    """Scores of each position with itself and those before it."""

    def forward(self, scores: Tensor) -> Tensor:
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        return scores.masked_fill(later, float("-inf"))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 16)
        self.entropy = Entropy()
        self.mask = Masked()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        gated = self.entropy(self.hidden(x))
        weights = self.mask(gated @ gated.T).softmax(-1)
        return self.head(gated + weights @ gated)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=chance)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return Subject(
        Model(),
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 32, 8)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        layout=Layout(axes={"x": ("token", "feature")}),
    )
