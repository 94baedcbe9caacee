"""Rolls that are not undone before what was rolled meets what it was made of."""

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

Batch = dict[str, Tensor]
Branch = Callable[["Block", Tensor], Tensor]


class Roll(nn.Module):
    """Rolled along time."""

    def __init__(self, by: int) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(self.by, 1)


class Block(nn.Module):
    """Tokens (sample, 12, 8) and a branch of them, in windows of four."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.branch, self.norm = branch, nn.LayerNorm(8)
        self.ask, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.wide, self.last = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1)
        self.on, self.back, self.away = Roll(-2), Roll(2), Roll(-2)

    def windows(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.ask(x).view(-1, 4, 3, d).unbind(2)
        return self.out(F.scaled_dot_product_attention(q, k, v)).view(n, t, d)

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(self, x)


class Net(nn.Module):
    """Two blocks between a first and a last layer."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3, 8), nn.Linear(8, 1)
        self.blocks = nn.Sequential(Block(branch), Block(branch))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.blocks(self.first(x)))
        return scores


def said(branch: Branch) -> list[Finding]:
    seed_everything(0)
    batches = [{"x": torch.randn(8, 12, 3), "y": torch.randn(8, 12, 1)} for _ in range(2)]
    subject = Subject(
        Net(branch),
        batches,
        lambda model, batch: F.mse_loss(model(batch["x"]), batch["y"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    return list(check(subject, chosen(["IDX015"])).findings)


def by_modules(block: Block, x: Tensor) -> Tensor:
    return block.away(block.windows(block.on(block.norm(x)))) + x


def too_far(block: Block, x: Tensor) -> Tensor:
    h = block.windows(block.norm(x).unflatten(1, (3, 4)).flatten(1, 2).roll(-2, 1))
    return x + F.dropout(h.roll(-3, 1).reshape(x.shape), 0.1, block.training)


def joined(block: Block, x: Tensor) -> Tensor:
    h = block.windows(x.roll(2, 1)).roll(2, 1)
    return block.wide(torch.cat([x, h], 2).unflatten(2, (2, 8)).sum(2).mT).mT


@pytest.mark.parametrize(
    ("branch", "words"),
    [(by_modules, "-4 along axis 1"), (too_far, "-5 along axis 1"), (joined, "+4 along axis 1")],
)
def test_a_branch_that_comes_out_beside_its_residual_is_told(branch: Branch, words: str) -> None:
    found = said(branch)[0]
    assert words in found.message
    assert found.verdict is Verdict.WARN


def undone(block: Block, x: Tensor) -> Tensor:
    return block.back(block.windows(block.on(block.norm(x)))) + x


def turned(block: Block, x: Tensor) -> Tensor:
    h = block.windows(block.norm(x).roll(-2, 1)).mT.roll(2, 2).mT
    return x + h


def half_a_turn(block: Block, x: Tensor) -> Tensor:
    return x + block.windows(x.roll(6, 1)).roll(6, 1)


def causal(block: Block, x: Tensor) -> Tensor:
    h = block.wide(x.mT).roll(1, 2).relu()
    return x + block.last(h).roll(1, 2).mT


def token_shift(block: Block, x: Tensor) -> Tensor:
    x = x + block.out(x.roll(1, 1))
    return x + block.out(x.roll(1, 1))


def upwind(block: Block, x: Tensor) -> Tensor:
    slope = x - x.roll(1, 1)
    return x - 0.1 * slope - 0.05 * (slope - slope.roll(1, 1))


def scanned(block: Block, x: Tensor) -> Tensor:
    total, moved = x, x
    for _ in range(3):
        moved = moved.roll(1, 1)
        total = total + 0.3 * moved
    return total


def ring(block: Block, x: Tensor) -> Tensor:
    q, k, v = block.ask(x).chunk(3, -1)
    total = x
    for _ in range(3):
        total = total + torch.sigmoid((q * k).sum(-1, keepdim=True)) * v
        k, v = k.roll(1, 1), v.roll(1, 1)
    return total


@pytest.mark.parametrize(
    "branch", [undone, turned, half_a_turn, causal, token_shift, upwind, scanned, ring]
)
def test_rolls_that_are_undone_or_meant_are_healthy(branch: Branch) -> None:
    assert said(branch) == []
