"""What the backward pass computes again must be what the forward pass computed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Around = Callable[[nn.Module, Tensor], Tensor]


def again(**settings: Any) -> Around:
    def around(layer: nn.Module, x: Tensor) -> Tensor:
        given: Tensor = checkpoint(layer, x, **settings)
        return given

    return around


def once(layer: nn.Module, x: Tensor) -> Tensor:
    given: Tensor = layer(x)
    return given


class Block(nn.Module):
    """noise: what is done to the inner values in training."""

    def __init__(self, noise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(12), nn.Linear(12, 24), nn.Linear(24, 12)
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.inner(self.norm(x)))
        kept: Tensor = x + self.outer(self.noise(inner) if self.training else inner)
        return kept


class Net(nn.Module):
    def __init__(self, noise: Callable[[Tensor], Tensor], around: Around) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(noise) for _ in range(2))
        self.first, self.head, self.around = nn.Linear(12, 12), nn.Linear(12, 1), around

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = self.around(block, x)
        value: Tensor = self.head(x).squeeze(-1)
        return value


def functional(x: Tensor) -> Tensor:
    return F.dropout(x, 0.3)


def of_its_own() -> Callable[[Tensor], Tensor]:
    chance = torch.Generator().manual_seed(3)

    def noise(x: Tensor) -> Tensor:
        return x * (1 + 0.5 * torch.randn(x.shape, generator=chance, dtype=torch.float32).to(x))

    return noise


def by_python(x: Tensor) -> Tensor:
    return x * random.uniform(0.2, 1.8)


def subject(model: nn.Module) -> Subject:
    seed_everything(0)
    batches = [{"x": torch.randn(8, 5, 12), "y": torch.randn(8, 5)}]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(model(batch["x"]), batch["y"])

    return Subject(model, batches, loss, lambda m: SGD(m.parameters(), 0.1))


def said(model: nn.Module) -> list[tuple[str, str | None]]:
    findings = check(subject(model), chosen(only=["WIR011"])).findings
    return [(f.verdict.value, f.site) for f in findings if f.verdict.value != "note"]


@pytest.mark.parametrize(
    ("noise", "around"),
    [
        (functional, again(use_reentrant=False, preserve_rng_state=False)),
        (functional, again(use_reentrant=True, preserve_rng_state=False)),
        (by_python, again(use_reentrant=False)),
    ],
)
def test_what_is_drawn_anew_in_backward_is_told(
    noise: Callable[[Tensor], Tensor], around: Around
) -> None:
    ((verdict, site),) = said(Net(noise, around))
    assert verdict == "fail"
    assert (site or "").startswith("blocks.1")


def test_dropout_modules_are_named() -> None:
    around = again(use_reentrant=False, preserve_rng_state=False)
    assert said(Net(nn.Dropout(0.3), around)) == [("fail", "blocks.0.noise")]


@pytest.mark.parametrize("around", [once, again(use_reentrant=False), again(use_reentrant=True)])
@pytest.mark.parametrize("noise", [functional, nn.Dropout(0.3)])
def test_kept_random_states_are_healthy(noise: Callable[[Tensor], Tensor], around: Around) -> None:
    assert said(Net(noise, around)) == []


class InRow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Sequential(*(Block(functional) for _ in range(4)))
        self.head = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = checkpoint_sequential(self.row, 2, x, use_reentrant=False)
        out.register_hook(lambda grad: grad + 0 * torch.randn_like(grad))  # draws in backward
        value: Tensor = self.head(out).squeeze(-1)
        return value


def test_draws_of_a_gradient_hook_are_its_own() -> None:
    assert said(InRow()) == []
