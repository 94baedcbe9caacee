"""Patches: what is read in their place, what the backward makes of it, and that nothing stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probes.patch import Edited, LogOfSoftmax, Widened, argument, made_finite, wider

SCORES = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
Function = Callable[[Tensor], Tensor]


def value_and_grad(function: Function, given: Tensor, under: Any = None) -> tuple[Tensor, Tensor]:
    """() and (...,), computed under the manager."""
    x = given.clone().requires_grad_()
    with under or nullcontext(), torch.autograd.set_multithreading_enabled(False):
        out = function(x)
        out.backward()
    assert x.grad is not None
    return out.detach(), x.grad


def off_zero(x: Tensor) -> Tensor:
    return torch.where(x == 0, 1.0, x)


AT_ZERO: dict[str, tuple[str, int, Function]] = {
    "log": ("aten.log", 0, lambda x: x.log().sum()),
    "log in place": ("aten.log_", 0, lambda x: (x * 1).log_().sum()),
    "sqrt": ("aten.sqrt", 0, lambda x: x.sqrt().sum()),
    "sqrt in place": ("aten.sqrt_", 0, lambda x: (x * 1).sqrt_().sum()),
    "pow": ("aten.pow", 0, lambda x: x.pow(0.3).sum()),
    "pow in place": ("aten.pow_", 0, lambda x: (x * 1).pow_(0.3).sum()),
    "divided": ("aten.div", 1, lambda x: (3.0 / (x * 1)).div(x).sum()),
    "reciprocal": ("aten.reciprocal", 0, lambda x: x.reciprocal().sum()),
}


@pytest.mark.parametrize("name", AT_ZERO)
def test_an_edited_call_and_its_backward_read_the_edited_numbers(name: str) -> None:
    op, place, function = AT_ZERO[name]
    given, safe = torch.tensor([0.5, 2.0, 4.0]), torch.tensor([1.0, 2.0, 4.0])
    edit = argument(place, lambda x: torch.where(x == 0.5, 1.0, x))
    under = Edited(lambda called: called == op, edit)
    value, grad = value_and_grad(function, given, under)
    assert under.calls == 1
    if name == "divided":  # its numerator is not edited
        assert torch.allclose(grad[1:], value_and_grad(function, safe)[1][1:])
        assert value == pytest.approx(6.0 / 1.0 + 1.5 / 2.0 + 0.75 / 4.0)
        return
    wanted, wanted_grad = value_and_grad(function, safe)
    assert torch.equal(value, wanted)
    assert torch.allclose(grad, wanted_grad)


@pytest.mark.parametrize("name", [name for name in AT_ZERO if name != "divided"])
def test_an_edit_at_zero_makes_value_and_gradient_finite(name: str) -> None:
    op, place, function = AT_ZERO[name]
    given = torch.tensor([0.0, 2.0])
    assert not all(t.isfinite().all() for t in value_and_grad(function, given))
    edited = Edited(lambda called: called == op, argument(place, off_zero))
    assert all(t.isfinite().all() for t in value_and_grad(function, given, edited))


def test_a_call_that_is_not_chosen_stays_as_it_was() -> None:
    under = Edited(lambda called: called == "aten.exp", argument(0, off_zero))
    plain = value_and_grad(lambda x: x.log().sum(), torch.tensor([0.5, 2.0]))
    edited = value_and_grad(lambda x: x.log().sum(), torch.tensor([0.5, 2.0]), under)
    assert under.calls == 0
    assert all(torch.equal(one, two) for one, two in zip(plain, edited, strict=True))


def test_a_number_is_changed_in_the_backward_too() -> None:
    def by_one(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return [args[0], args[1] or 1], kwargs

    under = Edited(lambda called: called == "aten.div", by_one)
    value, grad = value_and_grad(lambda x: (x / 0).sum(), torch.tensor([1.0, 2.0]), under)
    assert (value, grad.tolist()) == (3.0, [1.0, 1.0])


def test_the_input_of_an_edited_call_is_not_written() -> None:
    x = torch.tensor([0.0, 2.0])
    with Edited(lambda called: called == "aten.log", argument(0, off_zero)):
        x.log()
    assert x.tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: -x.softmax(-1).log()[:, 1].mean(),
        lambda x: -torch.log(torch.softmax(x, dim=1)).sum(),
        lambda x: -F.softmax(x, 1).log().gather(1, torch.tensor([[0], [2]])).sum(),
        lambda x: -x.softmax(-1).gather(1, torch.tensor([[0], [2]])).squeeze(1).log().sum(),
        lambda x: -x.softmax(-1).clone().log_().sum(),
        lambda x: -x.sigmoid().log().sum(),
        lambda x: -torch.log(1 - torch.sigmoid(x)).sum(),
        lambda x: -torch.log(1 - (1 - x.sigmoid())).sum(),
        lambda x: -torch.log1p(-x.sigmoid()).sum(),
        lambda x: -(1 - x.sigmoid())[0].log().sum(),
    ],
)
def test_the_log_of_softmax_is_that_of_torch(function: Function) -> None:
    under = LogOfSoftmax(lambda: True)
    value, grad = value_and_grad(function, SCORES, under)
    plain, plain_grad = value_and_grad(function, SCORES)
    assert under.calls == 1
    assert torch.allclose(value, plain, rtol=1e-5)
    assert torch.allclose(grad, plain_grad, atol=1e-6)
    assert all(t.isfinite().all() for t in value_and_grad(function, SCORES * 300, under))


def test_its_gradient_is_that_of_log_softmax_where_the_softmax_underflows() -> None:
    far = SCORES * 300
    patched = value_and_grad(lambda x: x.softmax(-1).log()[0, 1], far, LogOfSoftmax(lambda: True))
    wanted = value_and_grad(lambda x: x.log_softmax(-1)[0, 1], far)
    assert all(torch.equal(one, two) for one, two in zip(patched, wanted, strict=True))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x.softmax(-1) + 0.5).log().sum(),
        lambda x: x.softmax(-1).clone().mul_(2.0).log().sum(),
        lambda x: (2 - x.sigmoid()).log().sum(),
        lambda x: x.log_softmax(-1).sum(),
    ],
)
def test_another_log_is_left_alone(function: Function) -> None:
    under = LogOfSoftmax(lambda: True)
    patched = value_and_grad(function, SCORES, under)
    assert under.calls == 0
    plain = value_and_grad(function, SCORES)
    assert all(torch.equal(one, two) for one, two in zip(patched, plain, strict=True))


def test_a_log_that_is_not_chosen_is_left_alone() -> None:
    under = LogOfSoftmax(lambda: False)
    value, _ = value_and_grad(lambda x: x.softmax(-1).log().sum(), SCORES * 300, under)
    assert value == -torch.inf
    assert under.calls == 0


def test_a_widened_cast_keeps_what_half_precision_cannot() -> None:
    x = torch.tensor([7e4, 1.0])
    with Widened(lambda: True) as under:
        assert x.half().dtype is torch.float32
        assert x.to(torch.bfloat16).dtype is torch.float32
        assert x.double().dtype is torch.float64
    assert under.calls == 2
    assert x.half().dtype is torch.float16


def test_wider_holds_model_and_batch_in_float32_and_gives_them_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).half()
    batch = {"x": torch.ones(3, 2).half(), "ids": torch.arange(3), "y": torch.ones(3)}
    before = {name: each.clone() for name, each in model.state_dict().items()}
    model[0].weight.grad = came = torch.ones(2, 2).half()
    with wider(model, batch, torch.float32):
        assert model[0].weight.grad is None
        assert {each.dtype for each in model.parameters()} == {torch.float32}
        assert model[1].running_mean.dtype is torch.float32
        held = [each.dtype for each in batch.values()]
        assert held == [torch.float32, torch.int64, torch.float32]
    assert batch["x"].dtype is torch.float16
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert {each.dtype for each in model.parameters()} == {torch.float16}
    assert model[0].weight.grad is came


def test_made_finite_holds_zeros_and_gives_the_numbers_back() -> None:
    x, y = torch.tensor([float("nan"), 1.0, float("-inf")]), torch.ones(1)
    with made_finite([x, y]):
        assert x.tolist() == [0.0, 1.0, 0.0]
        assert y.tolist() == [1.0]
    assert x.isnan().tolist() == [True, False, False]
    assert x[1:].tolist() == [1.0, float("-inf")]


def test_both_give_back_after_an_exception() -> None:
    model, x = nn.Linear(2, 2).half(), torch.tensor([float("nan")])
    with pytest.raises(KeyError), wider(model, None, torch.float32), made_finite([x]):
        raise KeyError
    assert model.weight.dtype is torch.float16
    assert x.isnan().all()


@pytest.mark.parametrize(
    "under",
    [
        Edited(lambda op: op == "aten.log", argument(0, off_zero)),
        LogOfSoftmax(lambda: True),
        Widened(lambda: True),
    ],
)
def test_after_an_exception_nothing_is_patched(under: Any) -> None:
    with pytest.raises(KeyError), under:
        raise KeyError
    assert torch.tensor([0.0]).log().item() == -torch.inf
    assert (SCORES * 300).softmax(-1).log().min() == -torch.inf
    assert torch.ones(1).half().dtype is torch.float16
