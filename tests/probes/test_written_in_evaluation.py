"""What a model writes into itself in evaluation mode, and what it may."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject, Verdict
from probes.checking import check, chosen
from probes.finding import Finding
from probes.replay import Snapshot, replay
from probes.seeding import seed_everything
from probes.subject import Batch

WIDTH, CODES = 8, 5


class Codes(nn.Module):
    """A codebook that is learnt by moving averages."""

    def __init__(self, in_evaluation: bool) -> None:
        super().__init__()
        self.in_evaluation = in_evaluation
        self.embed: Tensor
        self.total: Tensor
        self.register_buffer("embed", 0.1 * torch.randn(CODES, WIDTH))
        self.register_buffer("total", self.embed.clone())

    def forward(self, z: Tensor) -> Tensor:
        chosen_codes = torch.cdist(z, self.embed).argmin(1)
        quantized = self.embed[chosen_codes]
        if self.training or self.in_evaluation:
            self._renew(F.one_hot(chosen_codes, CODES).float(), z.detach())
        return z + (quantized - z).detach()

    @torch.no_grad()
    def _renew(self, onehot: Tensor, z: Tensor) -> None:
        self.total.mul_(0.8).add_(onehot.T @ z, alpha=0.2)
        self.embed.copy_(self.total)  # planted


class Centred(nn.Module):
    """Takes off a mean, and counts: the mean of the first batch of all, or of every one so far."""

    def __init__(self, once: bool) -> None:
        super().__init__()
        self.once = once
        self.mean: Tensor | None = None
        self.usage: Tensor
        self.register_buffer("usage", torch.zeros(WIDTH))

    def forward(self, z: Tensor) -> Tensor:
        self.usage += z.detach().abs().mean(0)
        if self.mean is None:
            self.mean = z.detach().mean(0)
        elif not self.once:
            self.mean = 0.9 * self.mean + 0.1 * z.detach().mean(0)
        return z - self.mean


def of(middle: nn.Module) -> Subject:
    batches: list[Batch] = [
        {"x": torch.randn(12, 6), "labels": torch.arange(12) % 3} for _ in range(3)
    ]
    model = nn.Sequential(nn.Linear(6, WIDTH), nn.ReLU(), middle, nn.Linear(WIDTH, 3))
    return Subject(
        model,
        batches,
        lambda model, batch: F.cross_entropy(model(batch["x"]), batch["labels"]),
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        predict=lambda model, batch: model(batch["x"]),
    )


def told(middle: nn.Module) -> list[Finding]:
    subject = of(middle)
    before = {name: each.clone() for name, each in subject.model.state_dict().items()}
    findings = check(subject, chosen(["WIR011", "STA001"])).findings
    for name, each in subject.model.state_dict().items():
        assert torch.equal(each, before[name])
    assert all(each.is_leaf for each in subject.model.buffers())
    return [one for one in findings if one.verdict.rank > Verdict.NOTE.rank]


def test_a_codebook_that_is_renewed_in_evaluation_is_told_with_its_line() -> None:
    seed_everything(0)
    [found] = told(Codes(in_evaluation=True))
    assert (found.code, found.site, found.verdict) == ("STA001", "2.embed", Verdict.WARN)
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    planted = next(i for i, line in enumerate(lines, 1) if "# planted" in line)
    assert found.source is not None
    assert found.source.endswith(f".py:{planted}")
    assert "`output` changes by" in found.message


def test_statistics_of_every_batch_that_evaluation_adds_to_are_told() -> None:
    seed_everything(0)
    [found] = told(Centred(once=False))
    assert (found.code, found.site, found.verdict) == ("STA001", "2.mean", Verdict.WARN)


@pytest.mark.parametrize("made", [lambda: Codes(in_evaluation=False), lambda: Centred(once=True)])
def test_what_training_writes_or_the_first_pass_of_all_is_no_warning(made: type) -> None:
    seed_everything(0)
    assert told(made()) == []


def test_a_buffer_that_was_written_with_a_graph_has_none_afterwards() -> None:
    model = Codes(in_evaluation=True)

    def step() -> Tensor:
        model.embed.mul_(torch.ones((), requires_grad=True))
        return model.embed.sum()

    replay(step, model, Snapshot.take(model))
    assert model.embed.is_leaf
    assert not model.embed.requires_grad
