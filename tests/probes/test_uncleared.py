"""Gradients that a step leaves to the next are seen through a clipping that hides their size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Clip = Callable[[nn.Module], object]

CLIPS: dict[str, Clip] = {
    "none": lambda model: None,
    "by norm": lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.01),
    "one by one": lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.01, foreach=False),
    "by value": lambda model: nn.utils.clip_grad_value_(model.parameters(), 1e-4),
}


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def subject(clip: Clip, clears: bool) -> Subject:
    seed_everything(0)

    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        if clears:
            optimizer.zero_grad()
        found = loss(model, batch)
        found.backward()
        clip(model)
        optimizer.step()
        return found.detach()

    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    batch = {"x": torch.randn(12, 6), "y": torch.arange(12) % 3}
    return Subject(
        model, [batch], loss, lambda m: torch.optim.Adam(m.parameters(), lr=1e-3), train_step=step
    )


@pytest.mark.parametrize("clears", [False, True])
@pytest.mark.parametrize("clip", CLIPS)
def test_what_is_not_cleared_is_told_however_it_is_clipped(clip: str, clears: bool) -> None:
    found = check(subject(CLIPS[clip], clears), chosen(["WIR004"])).findings
    assert [each.code for each in found] == ["WIR004"] * (not clears)


PARTS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "a head": (lambda model: model.get_submodule("0"), "1"),
    "the first": (lambda model: model.get_submodule("1"), "0"),
    "a layer of it": (lambda model: model.get_submodule("0.0"), "0.1"),
}


@pytest.mark.parametrize(("cleared", "site"), PARTS.values(), ids=PARTS)
def test_what_is_cleared_in_part_is_told_of_the_rest(
    cleared: Callable[[nn.Module], nn.Module], site: str
) -> None:
    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        cleared(model).zero_grad()
        found = loss(model, batch)
        found.backward()
        optimizer.step()
        return found.detach()

    seed_everything(0)
    body = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 16), nn.ReLU())
    batch = {"x": torch.randn(12, 6), "y": torch.arange(12) % 3}
    trained = Subject(
        nn.Sequential(body, nn.Linear(16, 3)),
        [batch],
        loss,
        lambda m: torch.optim.Adam(m.parameters(), lr=1e-3),
        train_step=step,
    )
    [found] = check(trained, chosen(["WIR004"])).findings
    assert found.site == site
    assert f"of `{site}`" in found.message
    assert "not of the rest" in found.message
