"""An update of torch's own optimizers that divides by nothing: its operator is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from nan_watch import NanWatch, PoisonedStep
from probes.finding import Finding

STEPS, BAD = 8, 5  # BAD: the step of which the schedule gives no number


def line(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    [number] = [i for i, text in enumerate(lines, 1) if text.endswith(f"# HERE {mark}")]
    return f"{__file__}:{number}"


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        yield torch.randn(8, 4, generator=generator), torch.arange(8) % 3


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].bias[2] = -100.0  # a unit that never opens
    return model.to(dtype)


def train(
    model: nn.Module, optimizer: Optimizer, rates: Callable[[int], float] | None = None
) -> None:
    dtype = next(model.parameters()).dtype
    for step, (rows, labels) in enumerate(batches()):
        if rates is not None:
            optimizer.param_groups[0]["lr"] = rates(step)
        optimizer.zero_grad()
        F.cross_entropy(model(rows.to(dtype)).float(), labels).backward()
        optimizer.step()  # HERE step
        if rates is not None:
            optimizer.param_groups[0]["lr"] = 0.01


def named(
    make: Callable[[Any], Optimizer],
    dtype: torch.dtype = torch.float32,
    rates: Callable[[int], float] | None = None,
) -> Finding:
    model = net(dtype)
    optimizer = make(model.parameters())
    with pytest.raises(PoisonedStep) as caught, NanWatch(model, optimizer):
        train(model, optimizer, rates)
    return caught.value.finding


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.RMSprop])
def test_an_eps_that_halves_round_to_zero(kind: Any) -> None:
    finding = named(lambda p: kind(p, foreach=True), torch.float16)
    assert (finding.code, finding.op, finding.source) == ("NAN020", "aten.addcdiv_", line("step"))
    assert (finding.site, finding.phase, finding.step) == ("<optimizer>", "update", 0)
    assert "`0.weight`" in finding.message
    assert finding.where["row"] == 2


def test_an_eps_of_zero_in_a_fused_kernel() -> None:
    finding = named(lambda p: torch.optim.Adam(p, eps=0.0, fused=True))
    assert (finding.code, finding.op, finding.source) == ("NAN020", "aten.addcdiv_", line("step"))
    assert "eps is 0" in finding.message


def test_a_rate_that_is_no_number_at_one_step_only() -> None:
    rates = lambda step: float("inf") if step == BAD else 0.01  # noqa: E731
    finding = named(lambda p: torch.optim.SGD(p, lr=0.01), rates=rates)
    assert (finding.code, finding.step, finding.source) == ("NAN028", BAD, line("step"))
    assert finding.op == "aten.add_"
    assert "is inf" in finding.message


@pytest.mark.parametrize("how", [{"foreach": True}, {"fused": True}])
def test_a_rate_that_is_far_too_large_at_one_step_only(how: dict[str, bool]) -> None:
    rates = lambda step: 3e38 if step == BAD else 1e-6  # noqa: E731
    finding = named(lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=1e3, **how), rates=rates)
    assert (finding.step, finding.source, finding.op) == (BAD, line("step"), "aten.add_")


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_a_healthy_one_is_left_alone(kind: Any) -> None:
    bare, model = net(), net()
    train(bare, kind(bare.parameters(), lr=0.01, fused=True))
    optimizer = kind(model.parameters(), lr=0.01, fused=True)
    with NanWatch(model, optimizer) as watch:
        train(model, optimizer)
    assert not watch.findings
    for one, two in zip(bare.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, two)
