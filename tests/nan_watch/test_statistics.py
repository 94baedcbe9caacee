"""Statistics that a batch norm keeps and that become sick while loss and gradients are finite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nan_watch import NanWatch
from probes.finding import Verdict

LOUD = 4  # the step whose batch is


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("least", torch.full((6,), float("inf")))

    def forward(self, x: Tensor) -> Tensor:
        self.least.copy_(torch.minimum(self.least, x.detach().amin(0)))  # type: ignore[operator]
        if float(x[0, 0]) > 100:
            self.least.fill_(float("inf"))  # type: ignore[operator]
        hidden = self.norm(self.scale(x))  # its variance
        return self.head(hidden.relu())


def trained(model: nn.Module, dtype: torch.dtype, gain: float, watch: bool = True) -> NanWatch:
    optimizer = torch.optim.SGD(model.to(dtype).parameters(), 0.01)
    chance = torch.Generator().manual_seed(1)
    watching = NanWatch(model, optimizer)
    if watch:
        watching.__enter__()
    for step in range(LOUD + 3):
        x = torch.randn(16, 6, generator=chance) * (gain if step == LOUD else 1.0)
        optimizer.zero_grad()
        F.cross_entropy(model(x.to(dtype)).float(), (x[:, 0] > 0).long()).backward()
        optimizer.step()
    if watch:
        watching.__exit__(None, None, None)
    return watching


def test_a_variance_that_its_precision_cannot_hold_is_told_in_the_step_that_wrote_it() -> None:
    bare, model = Net(), Net()
    trained(bare, torch.float16, 4000.0, watch=False)
    [finding] = trained(model, torch.float16, 4000.0).findings
    lines = Path(__file__).read_text().splitlines()
    [line] = [i for i, text in enumerate(lines, 1) if text.endswith("# its variance")]
    assert (finding.code, finding.verdict, finding.confirmed) == ("NAN014", Verdict.WARN, True)
    assert (finding.site, finding.op) == ("norm", "aten.native_batch_norm")
    assert (finding.step, finding.phase) == (LOUD, "forward")
    assert finding.source == f"{__file__}:{line}"
    assert finding.message.endswith("; evaluation reads it in norm.running_var.")
    assert finding.message.count("evaluation") == 1
    pairs = zip(bare.state_dict().values(), model.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize(("dtype", "gain"), [(torch.float32, 4000.0), (torch.float16, 20.0)])
def test_one_that_it_can_hold_and_a_running_minimum_that_starts_anew_are_no_news(
    dtype: torch.dtype, gain: float
) -> None:
    model = Net()
    assert trained(model, dtype, gain).findings == ()
    assert bool(model.norm.running_var.isfinite().all())  # type: ignore[union-attr]
