"""Relief that is tried with the model's part of a plain loop's step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep


class Exp(nn.Module):
    """Overflows of a row that is too large; where `mixed`, it gives two numbers a sample."""

    def __init__(self, mixed: bool = False) -> None:
        super().__init__()
        self.inner, self.mixed = nn.Linear(3, 1), mixed

    def forward(self, x: Tensor) -> Tensor:
        rate = self.inner(x).squeeze(-1).exp()
        return rate.repeat(2) if self.mixed else rate


def step(model: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with NanWatch(model, optimizer) as watch:
        watch.backward(model(x).mean())
        optimizer.step()


@pytest.mark.parametrize("mixed", [True, False])
def test_relief_of_the_models_part_leaves_the_samples_gradient_out_too(mixed: bool) -> None:
    torch.manual_seed(0)
    model = Exp(mixed)
    model.inner.weight.data.fill_(1.0)
    x = torch.randn(6, 3)
    x[4] = 1e3
    with pytest.raises(PoisonedStep) as refusal:
        step(model, x)
    finding = refusal.value.finding
    assert (finding.op, finding.samples) == ("aten.exp", (4,))
    said = {e.what: e.value for e in finding.evidence if e.what.startswith("relief")}
    whole = {"relief: the model's part of the step without sample 4": "finite"}
    assert said == ({} if mixed else whole)  # of a row that is not a sample's nothing is known
