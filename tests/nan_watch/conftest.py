"""A small model with an embedding, a recurrence and a head, and its loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch import NanWatch, PoisonedStep
from nan_watch.parameters import Parameters
from probes.finding import Finding
from probes.record import Recorder
from probes.run import Run


class Tagger(nn.Module):
    def __init__(self, vocabulary: int = 12, width: int = 8, tags: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(width, tags)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.drop(self.lstm(self.embedding(ids))[0]))


Loss = Callable[[Tensor, int], Tensor]
Train = Callable[..., list[Tensor]]


def fine(logits: Tensor, step: int) -> Tensor:
    return logits.log_softmax(-1)[..., 0].neg().mean()


def poisoned_at(*steps: int) -> Loss:
    """The mean's weight is NaN at these steps: loss and gradients are not finite."""

    def loss(logits: Tensor, step: int) -> Tensor:
        return fine(logits, step) * (float("nan") if step in steps else 1.0)

    return loss


@pytest.fixture
def tagger() -> nn.Module:
    torch.manual_seed(0)
    return Tagger()


@pytest.fixture
def train() -> Train:
    """Trains for so many steps, and returns a copy of every parameter at the end."""

    def run(
        model: nn.Module,
        optimizer: Optimizer,
        steps: int,
        loss: Loss = fine,
        watch: object = None,
        clip: float | None = None,
        start: int = 0,
    ) -> list[Tensor]:
        chance = torch.Generator().manual_seed(1 + start)
        for step in range(start, start + steps):
            ids = torch.randint(0, 12, (4, 6), generator=chance)
            optimizer.zero_grad()
            value = loss(model(ids), step)
            value.backward() if watch is None else watch.backward(value)  # type: ignore[attr-defined]
            if clip is not None and watch is None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            elif clip is not None:
                watch.clip_grad_norm_(clip)  # type: ignore[attr-defined]
            optimizer.step()
        return [parameter.detach().clone() for parameter in model.parameters()]

    return run


@pytest.fixture
def poison() -> Callable[..., Loss]:
    """A loss that is NaN at the steps it is given."""
    return poisoned_at


@pytest.fixture
def record() -> Callable[..., Run]:
    """Trains under the watch, to the end or to a refused step; returns the run folder."""

    def run(
        folder: Path,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Callable[[nn.Module, int], Tensor],
        steps: int = 60,
        clip: float | None = None,
        schedule: Any = None,
        **settings: Any,
    ) -> Run:
        recorder = Recorder(folder, settings=settings)
        parameters = Parameters(model, optimizer)

        def one(step: int) -> None:
            optimizer.zero_grad()
            watch.backward(loss(model, step))
            if clip is not None:
                watch.clip_grad_norm_(clip)
            optimizer.step()

        try:
            with NanWatch(model, optimizer, out=recorder) as watch:
                for step in range(steps):
                    watch.step(partial(one, step))
                    if schedule is not None:
                        schedule.step()
        except PoisonedStep:
            pass
        recorder.note(parameters=parameters.facts_at_end())
        recorder.close()
        return Run(folder)

    return run


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))


class Computed(nn.Module):
    """A model whose parameters are given, and whose output is a function of them."""

    def __init__(self, function: Callable[..., Tensor], *given: Tensor) -> None:
        super().__init__()
        self.given = nn.ParameterList([nn.Parameter(each.clone()) for each in given])
        self.function = function

    def forward(self) -> Tensor:
        return self.function(*self.given)


@pytest.fixture
def cause_of(tmp_path: Path) -> Callable[..., Finding | None]:
    """What the watch says of one step of a function of parameters, or of a model: its finding."""

    def run(
        function: Callable[..., Tensor] | nn.Module,
        *given: Tensor,
        optimizer: Callable[..., Optimizer] = torch.optim.SGD,
        steps: int = 1,
        scale: float = 1.0,
    ) -> Finding | None:
        model = function if isinstance(function, nn.Module) else Computed(function, *given)
        chosen = optimizer(model.parameters(), lr=0.01)

        def step() -> Tensor:
            chosen.zero_grad()
            loss = model()
            watch.backward(loss * scale)
            chosen.step()
            return loss

        out = Recorder(tmp_path / "cause")
        with suppress(PoisonedStep), NanWatch(model, chosen, out=out) as watch:
            for _ in range(steps):
                watch.step(step)
        out.close(watch.judgement)
        return watch.findings[0] if watch.findings else None

    return run
