"""A model of torch's own modules, replayed from the optimizer's hook: the line is the call's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor) -> None:
    out = model(rows)  # HERE
    out.square().mean().backward()
    optimizer.step()


def test_the_line_is_that_of_the_models_call_and_not_of_the_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rows = torch.randn(8, 4)
    with torch.no_grad():
        model[0].weight.mul_(3e20)  # whose square is infinite
    with pytest.raises(PoisonedStep) as caught, NanWatch(model, optimizer):
        descend(model, optimizer, rows)
    lines = Path(__file__).read_text().splitlines()
    [at] = [i for i, text in enumerate(lines, 1) if text.endswith("# HERE")]
    assert caught.value.finding.op == "aten.native_layer_norm"
    assert caught.value.finding.source == f"{__file__}:{at}"
