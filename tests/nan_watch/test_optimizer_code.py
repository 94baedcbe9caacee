"""What may go wrong in an optimizer's own code, as its source tells it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nan_watch.inquest.optimizer_code import Risk, risk


def made(write: Callable[..., Any]) -> type:
    """A class of optimizers that computes so."""
    return type("Made", (torch.optim.Optimizer,), {"step": write})


def centred(self: Any, v: Tensor, m: Tensor) -> Tensor:
    return v.addcmul(m, m, value=-1).sqrt_()


def by_steps(self: Any, v: Tensor, m: Tensor) -> Tensor:
    spread = v - m.pow(2)
    spread = spread / 2 + 1e-12
    return torch.rsqrt(spread)


def in_place(self: Any, v: Tensor, m: Tensor) -> Tensor:
    v.mul_(1.0).sub_(m * m)
    return v**0.5


def augmented(self: Any, state: Any, m: Tensor) -> Tensor:
    state["v"] -= m * m
    return state["v"].log()


def all_at_once(self: Any, vs: list[Tensor], ms: list[Tensor]) -> Any:
    spreads = torch._foreach_sub(vs, torch._foreach_mul(ms, ms))
    torch._foreach_sqrt_(spreads)
    return spreads


def by_another(self: Any, v: Tensor, m: Tensor) -> Tensor:
    return _less(v, m * m).sqrt()


def _less(v: Tensor, m: Tensor) -> Tensor:
    return v - m


def adam(self: Any, p: Tensor, g: Tensor, v: Tensor, beta: float, step: int) -> None:
    v.mul_(beta).addcmul_(g, g, value=1 - beta)
    root = (v / (1 - beta**step)) ** 0.5
    p.addcdiv_(g, root.add_(1e-8), value=-0.1)
    p.sub_(g)


def belief(self: Any, g: Tensor, m: Tensor, v: Tensor) -> Tensor:
    m.add_(g - m, alpha=0.1)
    rest = g - m
    v.mul_(0.9).addcmul_(rest, rest, value=0.1)
    return (v + rest.mul(rest) + (g - m) ** 2 + rest * rest).sqrt()


def clamped(self: Any, v: Tensor, m: Tensor) -> Tensor:
    spread = (v - m * m).clamp(min=0)
    return spread.add(1e-8).sqrt() + (v - m).abs().sqrt()


def distance(self: Any, p: Tensor, start: Tensor) -> Tensor:
    return (p - start).norm() + (p - start).pow(2).sum().sqrt()


def signed(self: Any, p: Tensor, g: Tensor) -> None:
    p.sub_(g / g.abs())


def by_trust(self: Any, p: Tensor, g: Tensor, decay: float) -> None:
    ratio = p.norm() / (g + decay * p).norm()
    p.sub_(g * ratio)


def bare(self: Any, p: Tensor, g: Tensor, v: Tensor) -> None:
    v.mul_(0.9).addcmul_(g, g, value=0.1)
    p.addcdiv_(g, v.sqrt(), value=-0.1)


def by_power(self: Any, v: Tensor) -> Tensor:
    return v**-0.25


def preconditioned(self: Any, g: Tensor, square: Tensor) -> Tensor:
    return torch.linalg.solve(square, g)


class Above(torch.optim.Optimizer):
    def step(self, closure: Any = None) -> Any:
        return self.root(closure, closure)

    def root(self, v: Any, m: Any) -> Any:
        return (v - m).sqrt()


class Calling(Above):
    def root(self, v: Any, m: Any) -> Any:
        return super().root(v, m)


class Instead(Above):
    def root(self, v: Any, m: Any) -> Any:
        return v + m


SICK = [centred, by_steps, in_place, augmented, all_at_once, by_another]


@pytest.mark.parametrize("write", SICK)
def test_a_root_of_a_difference_is_seen(write: Callable[..., Any]) -> None:
    assert risk(made(write)) is Risk.DIFFERENCE


@pytest.mark.parametrize("write", [signed, by_trust, bare, by_power, preconditioned])
def test_a_division_that_nothing_guards_is_seen(write: Callable[..., Any]) -> None:
    assert risk(made(write)) is Risk.EDGE


@pytest.mark.parametrize("write", [adam, belief, clamped, distance])
def test_what_is_guarded_is_none(write: Callable[..., Any]) -> None:
    assert risk(made(write)) is Risk.NONE


def test_only_code_that_is_called_counts() -> None:
    assert risk(Calling) is Risk.DIFFERENCE
    assert risk(Instead) is Risk.NONE


def test_of_a_class_without_source_nothing_is_known() -> None:
    names: dict[str, Any] = {}
    exec("def write(self, v, m):\n    return v + m", names)
    assert risk(made(names["write"])) is not Risk.NONE
