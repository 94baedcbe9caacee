"""Tables of which the loss sees one row, though they are asked for several."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

LENGTH, FAR = 9, 8
Index = Callable[[Tensor], Tensor]


class Reader(nn.Module):
    """Two heads over numbers, with a bias that a table gives each (query, key).

    index: rows of the table, of key minus query. causal: whether keys ahead are hidden.
    """

    def __init__(self, index: Index, causal: bool = True) -> None:
        super().__init__()
        self.into, self.qk, self.head = nn.Linear(1, 8), nn.Linear(8, 16), nn.Linear(8, 1)
        self.bias = nn.Parameter(torch.randn(2, FAR))
        self.index, self.causal = index, causal

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.into(numbers[..., None])
        query, key = (
            part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qk(x).chunk(2, -1)
        )
        at = torch.arange(numbers.shape[1])
        scores = query @ key.mT + self.bias[:, self.index(at - at[:, None])]
        if self.causal:
            scores = scores.masked_fill(at > at[:, None], -1e9)
        read = scores.softmax(-1) @ x.unflatten(-1, (2, 4)).transpose(1, 2)
        out: Tensor = self.head(x + read.transpose(1, 2).flatten(2))
        return out.squeeze(-1)


class Steps(nn.Module):
    """Rolls a state on with a vector for each step, of which the loss scores `scored`."""

    def __init__(self, scored: int) -> None:
        super().__init__()
        self.steps, self.move, self.scored = nn.Embedding(6, 4), nn.Linear(4, 4), scored

    def forward(self, numbers: Tensor) -> Tensor:
        state, found = numbers[:, :4], []
        for vector in self.steps(torch.arange(6).expand(len(numbers), 6)).unbind(1):
            state = torch.tanh(self.move(state) + vector)
            found.append(state)
        return torch.stack(found, 1)[:, : self.scored].sum((1, 2))


def said(model: nn.Module) -> list[Finding]:
    chance = torch.Generator().manual_seed(0)
    batches = [torch.randn(10, LENGTH, generator=chance) for _ in range(4)]

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        given = model(batch)
        goal = batch.cumsum(1) if given.ndim > 1 else batch.sum(1)
        return F.mse_loss(given, goal)

    subject = Subject(model, batches, loss, lambda m: torch.optim.Adam(m.parameters()))
    return list(check(subject, chosen(["IDX018"])).findings)


def test_distances_the_wrong_way_round_are_told() -> None:
    seed_everything(0)
    (found,) = said(Reader(lambda ahead: ahead.clamp(0, FAR - 1)))
    assert (found.verdict, found.where) == (Verdict.WARN, {"row": 0})
    assert "`bias` is asked for 8 rows" in found.message


@pytest.mark.parametrize(
    "model",
    [
        lambda: Reader(lambda ahead: (-ahead).clamp(0, FAR - 1)),
        lambda: Reader(lambda ahead: ahead.clamp(0, FAR - 1), causal=False),  # both ways are seen
        lambda: Reader(lambda ahead: ahead.clamp(-1, 1) + 1),  # few rows
        lambda: Reader(lambda ahead: (ahead // LENGTH).clamp(-1, 0) + 1),  # coarse, for longer ones
        lambda: Steps(scored=1),  # more steps later
        lambda: Steps(scored=6),
    ],
)
def test_distances_that_are_seen_and_tables_that_have_more_are_healthy(
    model: Callable[[], nn.Module],
) -> None:
    seed_everything(0)
    assert said(model()) == []
