"""Steps too small for the format, or first of a warm-up, and layers that chance leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


def mean_square(model: nn.Module, batch: Batch) -> Tensor:
    off: Tensor = model(batch["x"].to(next(model.parameters()).dtype)).float()[:, 0] - batch["y"]
    return off.square().mean()


def told(kind: torch.dtype, rate: float, warm_up: int) -> list[str]:
    seed_everything(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 1)).to(kind)
    batch = {"x": torch.randn(12, 6), "y": torch.randn(12)}
    subject = Subject(
        model,
        [batch],
        mean_square,
        lambda m: torch.optim.Adam(m.parameters(), lr=rate),
        schedule=lambda o: LambdaLR(o, lambda step: min(1.0, (step + 1) / warm_up)),
    )
    return [each.message for each in check(subject, chosen(["WIR002"])).findings]


@pytest.mark.parametrize(
    ("kind", "rate", "warm_up", "sick"),
    [
        (torch.float32, 1e-4, 10_000, False),  # 1e-8 at first, which a weight of 1 does not feel
        (torch.float32, 1e-8, 1, True),
        (torch.bfloat16, 1e-4, 100, True),  # nor does it, in bfloat16, feel the whole rate
    ],
)
def test_a_first_step_of_a_warm_up_may_be_too_small(
    kind: torch.dtype, rate: float, warm_up: int, sick: bool
) -> None:
    messages = told(kind, rate, warm_up)
    assert any("one step does not change it by a bit" in each for each in messages) is sick


class Skipping(nn.Module):
    """Leaves out its middle in most steps, or keeps the gradient from it."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.first, self.middle, self.cut = nn.Linear(6, 6), nn.Linear(6, 6), cut
        self.last = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if not self.training or self.cut or float(torch.rand(())) < 0.4:
            inner = self.middle(x.tanh())
            x = x + (inner.detach() if self.cut else inner)
        return self.last(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("cut", [False, True])
def test_a_layer_that_chance_leaves_out_is_not_cut_off(cut: bool) -> None:
    seed_everything(4)  # under which the first step leaves it out
    batch = {"x": torch.randn(12, 6), "y": torch.randn(12)}
    subject = Subject(
        Skipping(cut), [batch], mean_square, lambda m: torch.optim.Adam(m.parameters(), lr=1e-3)
    )
    found = check(subject, chosen(["WIR002"])).findings
    assert any("no gradient reaches `middle" in each.message for each in found) is cut
