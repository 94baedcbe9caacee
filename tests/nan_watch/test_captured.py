"""Which of the model's calls are kept in a plain loop, and for how long."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch
from nan_watch.inquest.captured import KEPT, Captured


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_nothing_is_kept_over_a_step_nor_of_an_evaluation_and_of_many_calls_the_newest() -> None:
    model = nn.Linear(2, 2)
    optimizer = sgd(model)
    with NanWatch(model, optimizer) as watch:
        kept: Captured = watch._replays.captured
        with torch.no_grad():
            model(torch.ones(1, 2))
        assert kept.calls == []
        with pytest.raises(RuntimeError):
            model(torch.ones(1, 7))
        for number in range(KEPT + 3):
            model(torch.full((1, 2), float(number))).sum().backward()
        assert [float(call.args[0][0, 0]) for call in kept.calls] == list(range(3, KEPT + 3))
        assert kept.dropped == 3
        first = kept.calls[0]
        optimizer.step()
        assert kept.calls == []
        assert (first.args, first.grads) == ((), {})
        assert (kept.dropped, kept.loss, kept.ends) == (0, None, set())
        watch.step(lambda: model(torch.ones(1, 2)).sum().backward(), batch=[])
        assert kept.calls == []
    assert model._forward_pre_hooks == {}


def test_micro_batches_whose_gradients_are_large_are_not_held_on_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    three = 3 * (8 + 8) * 4  # bytes of three calls of 2 x 4 floats
    monkeypatch.setattr("nan_watch.inquest.captured.BUDGET", three)
    model = nn.Linear(4, 4)
    optimizer = sgd(model)
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        for part in range(6):
            x = torch.full((2, 4), float("nan") if part == 1 else 1.0)
            watch.backward(model(x).sum())
        assert len(watch._replays.captured.calls) == 4
        optimizer.step()
    [finding] = watch.findings
    said = [each for each in finding.evidence if each.what.startswith("earlier calls of the step")]
    assert [each.value for each in said] == [2]


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raw = self.raw(x)
        return x.abs() * (100 * raw.tanh().abs() + 100).exp(), raw


def test_of_a_list_of_modules_the_one_that_overflows_is_named_in_the_forward_pass() -> None:
    model = nn.ModuleList([nn.Linear(2, 2), Scale()])
    optimizer = sgd(model)
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        scaled, raw = model[1](model[0](torch.ones(3, 2)))
        (scaled.square().sum() + raw.sum()).backward()
        optimizer.step()
    [finding] = watch.findings
    assert (finding.site, finding.phase) == ("1[0]", "forward")
    assert finding.fix.endswith("`watch.step(fn)` replays the step and names the line.")


class Twice(torch.autograd.Function):
    """Two outputs; that which the loss does not use gets no zeros, as in compiled code."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return x * 2, x * 3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor:
        return sum(n * grad for n, grad in zip((2, 3), grads, strict=True) if grad is not None)  # type: ignore[return-value]


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return Twice.apply(self.layer(x))  # type: ignore[no-any-return]


def test_an_output_that_the_loss_does_not_use_has_no_gradient() -> None:
    model = Both()
    optimizer = sgd(model)
    with NanWatch(model, optimizer) as watch:
        kept: Captured = watch._replays.captured
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 3))[0].sum().backward()
            assert list(kept.calls[0].grads) == [0]
            optimizer.step()
    assert watch.findings == ()
