"""A path is scored by the transitions that the sum over all paths has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None
TAGS = 4


class Tagger(nn.Module):
    """A conditional random field; `moves[i, j]` is the score of tag j behind tag i."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 24)
        self.scores = nn.Linear(24, TAGS)
        self.moves = nn.Parameter(0.1 * torch.randn(TAGS, TAGS))

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.embedding(ids))
        return scores

    def path(self, scores: Tensor, tags: Tensor) -> Tensor:
        total = scores.gather(2, tags[:, :, None]).sum((1, 2))
        one, two = tags[:, :-1], tags[:, 1:]
        return total + self.moves[one, two].sum(1)

    def all_paths(self, scores: Tensor) -> Tensor:
        alpha = scores[:, 0]
        for t in range(1, scores.shape[1]):
            alpha = (alpha[:, :, None] + self.moves).logsumexp(1) + scores[:, t]
        return alpha.logsumexp(1)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    assert isinstance(model, Tagger)
    scores = model(batch["ids"])
    return (model.all_paths(scores) - model.path(scores, batch["tags"])).mean()


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 12, (24, 6), generator=chance)
    return Subject(
        Tagger(),
        [{"ids": ids, "tags": ids % TAGS}],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.05),
    )
