"""Gradients of zeros, and which modules they are of."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything


class Adapted(nn.Module):
    """A frozen layer, and two matrices beside it of which one or both begin with zeros."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.base = nn.Linear(6, 6).requires_grad_(False)
        self.down = nn.Parameter(torch.zeros(2, 6) if both else torch.randn(2, 6))
        self.up = nn.Parameter(torch.zeros(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + x @ self.down.T @ self.up.T
        return out


@pytest.mark.parametrize("both", [True, False])
def test_all_modules_are_named_whose_weights_hold_each_other_at_zero(both: bool) -> None:
    seed_everything(0)
    model = nn.Sequential(Adapted(both), nn.Tanh(), Adapted(both), nn.Linear(6, 1))
    batch = {"x": torch.randn(9, 6), "y": torch.randn(9, 1)}
    subject = Subject(
        model,
        [batch],
        lambda model, b: F.mse_loss(model(b["x"]), b["y"]),
        lambda model: torch.optim.Adam(p for p in model.parameters() if p.requires_grad),
    )
    found = check(subject, chosen(["WIR018"])).findings
    assert len(found) == both
    for one in found:
        assert one.site == "2"
        assert "`2.up` and 3 more, of `2`, `0`, is exactly zero" in one.message
        assert one.evidence[-1].value == 4
