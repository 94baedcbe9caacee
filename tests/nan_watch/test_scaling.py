"""Steps that a GradScaler skips: its own business, or a poisoned step in disguise."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nan_watch import NanWatch, PoisonedStep


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Net(nn.Module):
    def __init__(self, planted: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.planted = planted
        self.inner, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x).tanh()
        if self.planted == "forward":
            hidden = hidden / (hidden * 0)  # forward
        if self.planted == "backward" and x[0, 0] < 0:
            hidden = hidden + (hidden * 0).sqrt()  # backward
        return self.head(hidden)


def trained(
    model: nn.Module, scale: float, optimizer: Any = None, watch: bool = True, steps: int = 12
) -> NanWatch | None:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    chance = torch.Generator().manual_seed(1)

    def loop() -> None:
        for _ in range(steps):
            x = torch.randn(8, 6, generator=chance)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(x), (x[:, 0] > 0).long())
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    if not watch:
        loop()
        return None
    with NanWatch(model, optimizer) as standing:
        loop()
    return standing


@pytest.mark.parametrize("fused", [False, True])
def test_a_skip_is_told_apart_and_its_parameter_is_named(fused: bool) -> None:
    bare, model = Net(), Net()
    for each, watched in ((bare, False), (model, True)):
        watch = trained(
            each, 2.0**24, torch.optim.SGD(each.parameters(), 0.01, fused=fused), watched
        )
    assert watch is not None
    pairs = zip(bare.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert not watch.findings
    assert watch.steps == 12
    first = watch.scalers.skipped[0]
    assert (first.step, first.scale) == (0, 2.0**24)
    assert "head.weight" in first.parameters
    assert len(watch.scalers.skipped) < 12
    assert watch.run.facts["settings"]["skipped"][0]["parameters"][-1] == "head.bias"
    norms = watch.run.readings("param_grad", "norm")
    last = norms[(norms.step == 11) & (norms.site == "head.bias")].value.tolist()
    assert 0.001 < last[0] < 10  # without the scale


def test_output_gradients_are_read_without_the_scale() -> None:
    seen = []
    for scale in (1.0, 2.0**10):
        watch = trained(Net(), scale, steps=1)
        assert watch is not None
        grads = watch.run.readings("output_grad", "abs_max")
        seen.append(grads[grads.site == "head"].value.tolist())
    assert seen[0] == pytest.approx(seen[1], rel=0.01)


@pytest.mark.parametrize("planted", ["forward", "backward"])
def test_a_step_that_is_skipped_for_a_nan_of_its_own_is_found_and_the_line_named(
    planted: str,
) -> None:
    with pytest.raises(PoisonedStep) as caught:
        trained(Net(planted), 2.0**20)
    [line] = [
        number
        for number, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if text.endswith(f"# {planted}")
    ]
    finding = caught.value.finding
    assert (finding.op, finding.source) == ("aten.div", f"{__file__}:{line}")


def with_two_optimizers(model: Net, scale: float, first: str, watch: bool = True) -> int:
    """Each half of the model has its own, both after one backward pass; returns steps taken."""
    each = [torch.optim.SGD(getattr(model, n).parameters(), 0.01) for n in ("inner", "head")]
    ordered = each if first == "inner" else each[::-1]
    scaler, taken = torch.amp.GradScaler("cpu", init_scale=scale), [0]
    for one in each:
        one.register_step_post_hook(lambda *_: taken.append(taken.pop() + 1))
    chance = torch.Generator().manual_seed(1)
    with NanWatch(model, each) if watch else nullcontext():
        for _ in range(12):
            x = torch.randn(8, 6, generator=chance)
            model.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(x), (x[:, 0] > 0).long())
            scaler.scale(loss).backward()
            for one in ordered:
                scaler.step(one)
            scaler.update()
    return taken[0]


def test_a_step_may_leave_alone_what_overflowed_in_the_parameters_of_another_optimizer() -> None:
    bare, model = Net(), Net()
    for each in (bare, model):
        each.inner.weight.data /= 64  # its gradients stay in range longer than those of the head
        each.head.weight.data /= 64
    taken = [
        with_two_optimizers(each, 2.0**20, "inner", watch)
        for each, watch in ((bare, False), (model, True))
    ]
    pairs = zip(bare.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert taken[0] == taken[1]
    assert taken[0] % 2 == 1  # so that some steps were taken by one of them alone


def test_a_nan_of_its_own_in_the_parameters_of_another_optimizer_is_found_at_once() -> None:
    with pytest.raises(PoisonedStep) as caught:
        with_two_optimizers(Net("backward"), 2.0**4, "head")
    assert (caught.value.finding.op, caught.value.finding.step) == ("aten.div", 0)


def test_torchs_scaler_is_given_back() -> None:
    own = torch.amp.GradScaler.step
    model = Net()
    with NanWatch(model, torch.optim.SGD(model.parameters(), 0.1)):
        assert torch.amp.GradScaler.step is not own
    assert torch.amp.GradScaler.step is own
