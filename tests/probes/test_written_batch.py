"""What a step writes into its own batch, where a later pass reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(30, 16), nn.Linear(16, 30)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.words(ids))
        return scores


class Sums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.read(x)
        return scores


def masked(model: nn.Module, batch: Batch) -> Tensor:
    """Other words are hidden in each epoch, and stay so."""
    ids = batch["ids"]
    wanted = ids.clone()
    ids[torch.rand(ids.shape) < 0.15] = 1
    return F.cross_entropy(model(ids).flatten(0, 1), wanted.flatten())


def masked_copy(model: nn.Module, batch: Batch) -> Tensor:
    return masked(model, {"ids": batch["ids"].clone()})


def unscored(model: nn.Module, batch: Batch) -> Tensor:
    """Padding is not scored: done again, it changes nothing."""
    labels = batch["labels"]
    labels[labels == 0] = -100
    return F.cross_entropy(model(batch["ids"]).flatten(0, 1), labels.flatten(), ignore_index=-100)


def noised(model: nn.Module, batch: Batch) -> Tensor:
    x = batch["x"]
    x += 0.3 * torch.randn_like(x)
    return F.cross_entropy(model(x), batch["y"])


def unit(model: nn.Module, batch: Batch) -> Tensor:
    """Rows of unit length have it still."""
    x = batch["x"]
    x /= x.norm(dim=1, keepdim=True)
    return F.cross_entropy(model(x), batch["y"])


def noted(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    """How wrong each sample was is written down, and read by no loss."""
    optimizer.zero_grad()
    each = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
    batch["priority"].copy_(each.detach())
    each.mean().backward()
    optimizer.step()
    return each.mean()


def subject(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Subject:
    return Subject(model, batches, loss, lambda m: SGD(m.parameters(), 0.1))


def texts() -> list[Batch]:
    seed_everything(0)
    return [{"ids": torch.randint(0, 30, (8, 9)), "labels": torch.randint(0, 30, (8, 9))}]


def numbers() -> list[Batch]:
    seed_everything(0)
    return [{"x": torch.randn(12, 6), "y": torch.arange(12) % 3, "priority": torch.zeros(12)}]


def said(subject: Subject) -> list[tuple[str, str | None]]:
    findings = check(subject, chosen(only=["STA013"])).findings
    assert all("test_written_batch.py" in (f.source or "") for f in findings)
    return [(f.verdict.value, f.op) for f in findings]


def test_words_that_are_masked_in_the_batch_itself_are_told() -> None:
    assert said(subject(Reader(), texts(), masked)) == [("fail", "aten.index_put_")]
    assert said(subject(Reader(), texts(), masked_copy)) == []


def test_noise_that_adds_up_in_the_batch_is_told() -> None:
    assert said(subject(Sums(), numbers(), noised)) == [("fail", "aten.add_")]


def test_tensors_that_each_pass_makes_anew_are_a_note() -> None:
    rows = [{"x": torch.randn(6), "y": torch.tensor(i % 3)} for i in range(24)]
    loader: Iterable[Batch] = DataLoader(rows, batch_size=8)  # type: ignore[arg-type]
    assert said(subject(Sums(), loader, noised)) == [("note", "aten.add_")]


@pytest.mark.parametrize(
    ("model", "batches", "loss"), [(Reader, texts, unscored), (Sums, numbers, unit)]
)
def test_what_changes_nothing_when_done_again_is_healthy(
    model: Callable[[], nn.Module], batches: Callable[[], list[Batch]], loss: Loss
) -> None:
    assert said(subject(model(), batches(), loss)) == []


def test_what_no_loss_reads_is_healthy() -> None:
    own = Subject(Sums(), numbers(), unit, lambda m: SGD(m.parameters(), 0.1), train_step=noted)
    assert said(own) == []
