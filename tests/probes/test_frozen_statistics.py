"""Batch norms of a frozen part in training mode: left there, or meant to follow the data."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


def encoder() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8))


def trained(seen: bool = True) -> nn.Sequential:
    """Frozen, with statistics of data that it has seen."""
    made = encoder()
    for _ in range(20 * seen):
        made(torch.randn(16, 6))
    return made.requires_grad_(False)


class Transfer(nn.Module):
    """A frozen encoder and a head."""

    def __init__(self, made: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.head = made, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x))
        return out


class Careful(Transfer):
    """Whose statistics alone follow the data, or nothing of the encoder does."""

    def __init__(self, made: nn.Sequential, follows: bool, begun: bool = True) -> None:
        super().__init__(made)
        self.follows = follows
        if begun:
            self.train()

    def train(self, mode: bool = True) -> Careful:
        super().train(mode)
        self.encoder.eval()
        self.encoder[1].train(mode and self.follows)
        return self


class Contrast(nn.Module):
    """A key encoder that is a copy, as of momentum contrast, whose keys a layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.head = encoder(), trained(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.cat([self.query(x), self.key(x)], 1))
        return out


class Taught(nn.Module):
    """A student, and a teacher that is compared with."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = trained(), nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 8))

    def forward(self, x: Tensor) -> Tensor:
        return (self.student(x) - self.teacher(x)).square().mean(1, keepdim=True).expand(-1, 3)


class Adversary(nn.Module):
    """A generator, whose images a frozen discriminator scores."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.judge = nn.Linear(6, 6), trained()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.judge(self.made(x))[:, :3]
        return out


def said(model: nn.Module, size: int = 4, optimizer: object = None) -> list[Finding]:
    batches = [
        {"x": 0.7 + torch.randn(size, 6), "labels": torch.randint(3, (size,))} for _ in range(4)
    ]

    def held(m: nn.Module) -> Optimizer:
        return torch.optim.Adam([p for p in m.parameters() if p.requires_grad or optimizer])

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(m(b["x"]), b["labels"])

    return list(check(Subject(model, batches, loss, held), chosen(["WIR005"])).findings)


def test_a_frozen_part_that_was_left_in_training_mode_is_told() -> None:
    seed_everything(0)
    [found] = said(Transfer(trained()))
    assert (found.verdict, found.site) == (Verdict.WARN, "encoder")
    assert "what `head` reads of a sample hangs on the 3 others of its batch" in found.message
    assert "`encoder.1.running_mean`" in found.message


@pytest.mark.parametrize(
    "model",
    [
        lambda: Careful(trained(), follows=True),
        lambda: Careful(trained(), follows=False),
        lambda: Careful(trained(), follows=False, begun=False),  # till a loop calls `train()`
        lambda: Transfer(trained(seen=False)),  # drawn features, whose statistics are to be found
        Contrast,
        Taught,
        Adversary,
    ],
)
def test_statistics_that_may_be_meant_to_follow_are_no_more_than_a_note(
    model: Callable[[], nn.Module],
) -> None:
    seed_everything(0)
    assert {found.verdict for found in said(model())} <= {Verdict.NOTE}


def test_a_part_that_is_to_be_thawed_later_or_hardly_mixes_is_a_note() -> None:
    seed_everything(0)
    model = Transfer(trained())
    for found in (*said(copy.deepcopy(model), optimizer=True), *said(model, size=1024)):
        assert found.verdict is Verdict.NOTE
