"""Clipping that leaves next to nothing: what makes the norms vast is told, and no limit advised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from nan_watch.rules.clipping import Clipping
from nan_watch.watch import NanWatch
from probes.finding import Finding, Verdict
from probes.record import Recorder
from probes.run import Run

Loss = Callable[..., Tensor]


class Regressor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.mean, self.scale = nn.Linear(32, 1), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return self.mean(hidden).squeeze(-1), self.scale(hidden).squeeze(-1)


def by_nothing(mean: Tensor, scale: Tensor, y: Tensor) -> Tensor:
    sigma = torch.relu(scale)
    return ((y - mean) ** 2 / (2 * sigma**2 + 1e-9) + torch.log(sigma + 1e-9)).mean()


def of_unscaled(mean: Tensor, scale: Tensor, y: Tensor) -> Tensor:
    return ((y * 1e6 - mean) ** 2).mean() + 0 * scale.mean()


def beside_an_eps(mean: Tensor, scale: Tensor, y: Tensor) -> Tensor:
    nothing = torch.zeros_like(scale)
    unit = nothing / (nothing.square().sum().sqrt() + 1e-9)
    return of_unscaled(mean, scale, y) + (unit * scale.detach()).sum()


def of_moderate(mean: Tensor, scale: Tensor, y: Tensor) -> Tensor:
    return ((y * 100 - mean) ** 2).mean() + 0 * scale.mean()


def clipped(loss_of: Loss, folder: Path, limit: float = 1.0) -> Finding:
    torch.manual_seed(0)
    model, recorder = Regressor(), Recorder(folder)
    optimizer = Adam(model.parameters(), 1e-3)
    x = torch.randn(64, 8)
    y = x.sum(1) + 0.1 * torch.randn(64)

    with NanWatch(model, optimizer, out=recorder) as watch:

        def step() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(*model(x), y)
            watch.backward(loss)
            watch.clip_grad_norm_(limit)
            optimizer.step()
            return loss

        for _ in range(60):
            watch.step(step)
    recorder.close()
    return next(Clipping().judge(Run(recorder.folder)))


def test_a_division_by_nearly_nothing_is_named(tmp_path: Path) -> None:
    found = clipped(by_nothing, tmp_path / "run")
    line = f"test_clipped_vast.py:{by_nothing.__code__.co_firstlineno + 2}"
    assert found.verdict is Verdict.WARN
    assert (found.source or "").endswith(line)
    assert "is about 1e-09 and the gradient of the output of `model[1]` reaches" in found.message
    assert "Raise the limit" not in found.fix
    assert line in found.fix


@pytest.mark.parametrize("loss_of", [of_unscaled, beside_an_eps])
def test_vast_norms_of_targets_are_a_note_without_a_limit(loss_of: Loss, tmp_path: Path) -> None:
    found = clipped(loss_of, tmp_path / "run", 1e-4)
    assert found.verdict is Verdict.NOTE
    assert "targets that are not scaled" in found.fix
    assert "Raise the limit" not in found.fix
    assert found.source is None


def test_moderate_norms_are_a_note_with_a_limit(tmp_path: Path) -> None:
    found = clipped(of_moderate, tmp_path / "run")
    assert found.verdict is Verdict.NOTE
    assert "Raise the limit to about" in found.fix
