"""What is drawn in the first pass of training and kept, and what only looks so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checks.drawn_once import DrawnOnce
from probes.experiment import Experiment
from probes.finding import Finding


class Net(nn.Module):
    """Scores of rows of numbers, of which `treat` may keep something."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(4, 16), nn.Linear(16, 3)
        self.kept: Tensor | None = None

    def treat(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.read(x).tanh()
        scores: Tensor = self.head(self.treat(hidden) if self.training else hidden)
        return scores


class OneMask(Net):
    def treat(self, hidden: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.bernoulli(torch.full((hidden.shape[1],), 0.5)) * 2
        return hidden * self.kept


class Noise(Net):
    def treat(self, hidden: Tensor) -> Tensor:
        if self.kept is None or self.kept.shape != hidden.shape:
            self.kept = torch.randn_like(hidden)
        return hidden + self.kept


class MaskAndMore(OneMask):
    """Beside a dropout that draws in every pass."""

    def treat(self, hidden: Tensor) -> Tensor:
        return nn.functional.dropout(super().treat(hidden), 0.3)


class EachTime(Net):
    def treat(self, hidden: Tensor) -> Tensor:
        self.kept = torch.bernoulli(torch.full_like(hidden, 0.5)) * 2
        return hidden * self.kept


class Projected(Net):
    """Onto directions that are drawn once and are the same for all samples."""

    def treat(self, hidden: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.randn(16, 16) / 4
        return hidden @ self.kept


class Carried(Net):
    """A state that goes on from batch to batch, and hangs on what dropout left."""

    def treat(self, hidden: Tensor) -> Tensor:
        before = 0 if self.kept is None else self.kept
        state = nn.functional.dropout(hidden, 0.5) + before
        self.kept = state.detach()
        return state


class Written(Net):
    """A mask that is kept for whoever looks, and that nobody reads."""

    def treat(self, hidden: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.bernoulli(torch.full((16,), 0.5))
        return hidden


def found(make: Callable[[], Net]) -> list[Finding]:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(14, 4, generator=chance)
    subject = Subject(
        make(),
        [{"x": part, "labels": torch.arange(7) % 3} for part in x.split(7)],
        lambda model, batch: nn.functional.cross_entropy(model(batch["x"]), batch["labels"]),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
    return list(DrawnOnce().judge(Experiment.of(subject)))


@pytest.mark.parametrize("make", [OneMask, Noise, MaskAndMore])
def test_what_is_drawn_for_the_first_batch_alone_is_told(make: Callable[[], Net]) -> None:
    (finding,) = found(make)
    assert finding.site is not None
    assert finding.site.endswith(".kept")


@pytest.mark.parametrize("make", [Net, EachTime, Projected, Carried, Written])
def test_what_is_drawn_anew_or_meant_to_stay_is_silence(make: Callable[[], Net]) -> None:
    assert found(make) == []
