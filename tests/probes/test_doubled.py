"""Sums of a tensor and itself: by mistake, on purpose, and where a layer is off."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.off = nn.Linear(6, 6), nn.Linear(6, 6), nn.Identity()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])


class Stale(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        (
            kept,
            other,
        ) = x, self.two(x)
        other = self.two(other)
        return (
            x
            + kept
        ) * other.sigmoid()  # fmt: skip


class InPlace(Layers):
    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        kept = h
        gate = self.two(x).sigmoid()
        h += kept
        return h * gate


class Looped(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        for layer in self.layers:
            kept = x
            y = layer(x)
            x = x + kept
        return x * y


class Right(Layers):
    def forward(self, x: Tensor) -> Tensor:
        kept = x = self.one(x)
        x = self.two(x)
        x = x + kept
        return x + x


class Off(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        h = self.off(x)
        return x + h + self.off(x)


class Optional(Layers):
    """A layer that this model does without."""

    third: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        kept = x
        if self.third is not None:
            x = self.third(x)
        return x + kept


class Series(Layers):
    """Adds up what is passed on, the first of it twice."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        total = x
        for layer in self.layers:
            total = total + x
            x = layer(x)
        return total + x


def said(layers: nn.Module) -> list[Finding]:
    seed_everything(0)
    batch = {"x": torch.randn(9, 6), "y": torch.randn(9, 1)}
    subject = Subject(
        nn.Sequential(layers, nn.Linear(6, 1)),
        [batch],
        lambda model, b: F.mse_loss(model(b["x"]), b["y"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    return list(check(subject, chosen(["WIR033"])).findings)


@pytest.mark.parametrize("layers", [Stale(), InPlace(), Looped()])
def test_a_residual_that_is_added_to_itself_is_told(layers: nn.Module) -> None:
    [found] = said(layers)
    assert found.site == "0"
    assert "`kept`" in found.message


@pytest.mark.parametrize("layers", [Right(), Off(), Optional(), Series()])
def test_what_is_a_sum_of_one_by_design_is_silent(layers: nn.Module) -> None:
    assert said(layers) == []
