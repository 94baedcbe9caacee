from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes.bus import Kind
from probes.compare import Baseline, compare
from probes.execution import run
from probes.replay import Snapshot


class Pooled(nn.Module):
    """Sums over all positions in its own code, between two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        hidden = self.inner(x)
        return {"logits": self.head(hidden.sum(1)), "hidden": (hidden, None)}


def rows(*values: float) -> Tensor:
    return (
        torch.tensor(values, dtype=torch.float32)[:, None].expand(len(values), 3)[None].contiguous()
    )


def test_the_first_difference_is_where_it_enters() -> None:
    torch.manual_seed(0)
    model = Pooled()
    visible = torch.tensor([True, True, False])

    def look(site: str, value: Tensor) -> Tensor:
        return visible[None, :, None] if value.shape[1:2] == (3,) else torch.tensor(True)

    found = compare(model, rows(1, 2, 3), rows(1, 2, 9), model, look)
    assert found.first is not None
    assert (found.first.site, found.first.kind) == ("head", Kind.INPUT)
    assert [each.site for each in found.outputs] == ["logits"]
    assert found.deterministic
    everywhere = compare(model, rows(1, 2, 3), rows(1, 2, 9), model).first
    assert everywhere is not None
    assert (everywhere.site, everywhere.kind) == ("model", Kind.INPUT)
    assert everywhere.largest == 6
    assert everywhere.relative == 2
    assert everywhere.where == {"axis 0": 0, "axis 1": 2, "axis 2": 0}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.seen = 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.seen += 1
        state = x.new_zeros(2, 3)
        for i in range(3):
            state = self.cell(x[:, i], state)
        return self.norm(state), state


def test_the_call_of_a_module_that_runs_several_times_is_told() -> None:
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(2, 3, 3)
    changed = x.clone()
    changed[1, 2, 0] += 1
    found = compare(model, x, changed, model, lambda site, v: None if site == "model" else v == v)
    assert found.first is not None
    assert (found.first.site, found.first.kind, found.first.call) == ("cell[0]", Kind.INPUT, 2)
    assert {each.site for each in found.outputs} == {"0", "1"}


def test_nothing_outside_has_changed() -> None:
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(2, 3, 3)
    model(x)[0].sum().backward()
    model.eval().norm.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    state = torch.get_rng_state()

    def call(given: Tensor) -> Any:
        model.train()
        torch.rand(1)
        return model(given)

    compare(call, x, x + 1, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(
        torch.equal(p.grad, grad)
        for p, grad in zip(model.parameters(), grads, strict=True)
        if p.grad is not None
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.training, model.norm.training, model.seen) == (False, True, 1)
    assert not model._forward_hooks
    assert not model.cell._forward_pre_hooks


def test_dropout_repeats_and_what_does_not_repeat_widens_the_noise() -> None:
    model, x = nn.Linear(4, 4), torch.ones(2, 4)
    drawn: Callable[[Tensor], Tensor] = lambda given: F.dropout(model(given), 0.5)  # noqa: E731
    assert compare(drawn, x, x, model).deterministic
    counted = iter(range(100))
    moving: Callable[[Tensor], Tensor] = lambda given: model(given + 1e-3 * (next(counted) % 2))  # noqa: E731
    found = compare(moving, x, x + 2e-3, model)
    assert not found.deterministic
    assert found.outputs == ()
    assert compare(moving, x, x + 1, model).outputs[0].noise > 0


def test_runs_that_call_other_modules_are_said_to_part() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    branch: Callable[[Tensor], Tensor] = lambda x: model[int(x.sum() > 0)](x)  # noqa: E731
    assert compare(branch, -torch.ones(1, 2), torch.ones(1, 2), model).parted == "1"
    longer = compare(model, torch.ones(1, 2), torch.ones(3, 2), model)
    assert longer.parted == "model"
    assert longer.first is None


def test_evaluations_without_gradients_and_infinities_are_seen() -> None:
    model = nn.Sequential(nn.Identity())

    @torch.no_grad()
    def call(x: Tensor) -> Tensor:
        out: Tensor = model(x)
        return out

    inf = float("inf")
    one = torch.tensor([inf, float("nan"), 1.0])
    assert compare(call, one, one.clone(), model).first is None
    found = compare(call, one, torch.tensor([inf, float("nan"), inf]), model)
    assert found.first is not None
    assert found.first.largest == inf


def test_what_a_run_keeps_is_bounded() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    ran = run(lambda: model(torch.ones(1, 4)), model, Snapshot.take(model), budget=40)
    assert [event.value is None for event in ran.events].count(False) > 0
    assert any(event.value is None for event in ran.events)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_rounding_is_no_difference(dtype: torch.dtype) -> None:
    model = nn.Identity()
    x = torch.ones(8, dtype=dtype)
    step = torch.finfo(dtype).eps
    baseline = Baseline(model, x, model)
    assert baseline.against(baseline.run(x + 2 * step)).first is None
    assert baseline.against(baseline.run(x + 0.5)).first is not None
