"""A head whose loss the code multiplies by the number 0 is nothing to memorise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.targets import read_targets
from probes import Subject


class Two(nn.Module):
    """A head for each of two labels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.two(x)


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        ((1.0, 0.0), ["a"]),
        ((1.0, 0.5), ["a", "b"]),
        ((0.0, 0.0), ["a", "b"]),
        ((1.0, torch.tensor(0.0)), ["a", "b"]),
    ],
)
def test_a_head_times_the_number_0_is_no_target(weights: Any, names: list[str]) -> None:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        one, two = model(batch["x"])
        terms = F.cross_entropy(one, batch["a"]), F.cross_entropy(two, batch["b"])
        total: Tensor = terms[0] * weights[0] + terms[1] * weights[1]
        return total

    chance = torch.Generator().manual_seed(0)
    batch = {
        "x": torch.randn(12, 6, generator=chance),
        "a": torch.randint(0, 3, (12,), generator=chance),
        "b": torch.randint(0, 2, (12,), generator=chance),
    }
    subject = Subject(Two(), [batch], loss, lambda m: torch.optim.Adam(m.parameters()))
    assert [each.name for each in read_targets(subject, [batch]).found] == names
