"""Modules with a `backward` of their own: those that nobody calls, and those that are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


class Rounded(nn.Module):
    """A straight-through estimator, it says."""

    def forward(self, x: Tensor) -> Tensor:
        return x.round()

    def backward(self, g: Tensor) -> Tensor:
        return g


class Clipped(nn.Module):
    """Gradients are to be cut, it says."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1

    def backward(self, grad: Tensor) -> tuple[Tensor, None]:
        return grad.clamp(-0.01, 0.01), None


class Scaled(nn.Module):
    """Says what autograd does."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def backward(self, grad: Tensor) -> Tensor:
        return 2 * grad


class Flow(nn.Module):
    """The way back from what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.linspace(-1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.log_scale.exp()

    def backward(self, z: Tensor) -> Tensor:
        return z * (-self.log_scale).exp()


class Engine(nn.Module):
    """Takes a loss, as a trainer's module does."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1

    def backward(self, loss: Tensor, *args: Any) -> None:
        loss.backward()


class Reads(nn.Module):
    """Reads a sequence from its end."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cell(x).tanh()
        return out

    def backward(self, x: Tensor) -> Tensor:
        return self.forward(x.flip(0)).flip(0)


class Hooked(nn.Module):
    """Its `backward` hangs on what it gives."""

    def forward(self, x: Tensor) -> Tensor:
        out = x.view_as(x)
        if out.requires_grad:
            out.register_hook(self.backward)
        return out

    def backward(self, grad: Tensor) -> Tensor:
        return -grad


def said(inner: nn.Module) -> list[Finding]:
    seed_everything(0)
    model = nn.Sequential(nn.Linear(5, 4), inner, nn.Linear(4, 1))
    batch = {"x": torch.randn(9, 5), "y": torch.randn(9, 1)}
    subject = Subject(
        model,
        [batch],
        lambda model, b: F.mse_loss(model(b["x"]), b["y"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    found = list(check(subject, chosen(["WIR029"])).findings)
    assert not {"forward", "backward"} & vars(inner).keys()
    return found


@pytest.mark.parametrize(("inner", "words"), [(Rounded(), "zeros"), (Clipped(), "a cosine of")])
def test_a_backward_that_nobody_calls_is_told(inner: nn.Module, words: str) -> None:
    [found] = said(inner)
    assert found.site == "1"
    assert words in found.message


@pytest.mark.parametrize("inner", [Scaled(), Flow(), Engine(), Reads(), Hooked()])
def test_what_is_no_gradient_or_agrees_with_it_is_silent(inner: nn.Module) -> None:
    assert said(inner) == []


class Manual(nn.Module):
    """Goes back by hand, layer by layer, from the first step on."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.act = nn.Linear(5, 1), Rounded()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.body(x))
        return out


def by_hand(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
    off = model(batch["x"]) - batch["y"]
    assert isinstance(model, Manual)
    grad = model.act.backward(2 * off.detach() / len(off))
    model.body.weight.grad, model.body.bias.grad = grad.T @ batch["x"], grad.sum(0)
    optimizer.step()
    return off.square().mean()


def test_a_backward_that_the_step_calls_is_silent() -> None:
    seed_everything(0)
    batch = {"x": torch.randn(9, 5), "y": torch.randn(9, 1)}
    subject = Subject(
        Manual(),
        [batch],
        lambda model, b: F.mse_loss(model(b["x"]), b["y"]),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
        train_step=by_hand,
    )
    assert not check(subject, chosen(["WIR029"])).findings
