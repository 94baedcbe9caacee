"""Classifiers whose answer hangs on what is picked at random, and those that draw otherwise."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject, Verdict
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything
from probes.subject import Batch

POINTS, WIDTH, CLASSES = 10, 6, 4


class Cloud(nn.Module):
    """Reads points from where `way` says; `noisy`: what it reads is blurred."""

    def __init__(self, way: str, noisy: bool) -> None:
        super().__init__()
        self.way, self.noisy = way, noisy
        self.chances = nn.Linear(WIDTH, 1)
        self.encoder = nn.Linear(WIDTH, 24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if self.noisy:
            x = x + 0.3 * torch.randn_like(x)
        scores: Tensor = self.head(self.encoder(self._read(x)).tanh())
        return scores

    def _read(self, x: Tensor) -> Tensor:
        rows = torch.arange(len(x))
        if self.way == "start" or (self.way == "training" and self.training):
            return x[rows, torch.randint(0, POINTS, (len(x),))]  # start
        if self.way == "numpy":
            return x[:, int(np.random.randint(POINTS))]  # numpy
        if self.way == "host":
            return x[:, random.randrange(POINTS)]  # host
        if self.way == "gate":
            return x[:, 0] if random.random() < 0.5 else x[:, 1]  # gate
        if self.way == "order":
            turned = x[:, torch.randperm(POINTS)]  # order
            return turned[:, 0] - turned[:, 1]
        if self.way == "dropped":
            return (x * (torch.rand_like(x) < 0.2) / 0.2).mean(1)  # dropped
        if self.way == "sampled":
            return x[rows, torch.multinomial(self.chances(x)[..., 0].softmax(1), 1)[:, 0]]
        if self.way == "several":
            return x[rows[:, None], torch.randint(0, POINTS, (len(x), 3))].mean(1)
        if self.way == "patches":
            return x[:, torch.randperm(POINTS)[:3]].mean(1)
        if self.way == "masked":
            kept = torch.rand(len(x), POINTS).argsort(1)[:, :3]
            return x[rows[:, None], kept].mean(1)
        if self.way == "even noise":
            return x[:, 0] + (torch.rand_like(x[:, 0]) - 0.5)
        if self.way == "for nothing":
            return x[:, 0] + 0 * x[:, int(torch.randint(0, POINTS, ()))]
        return x[:, 0]


def told(way: str, noisy: bool = False, task: str = "classes") -> list[Finding]:
    seed_everything(3)
    batches: list[Batch] = []
    for _ in range(2):
        x = torch.randn(12, POINTS, WIDTH)
        batches.append({"x": x, "y": torch.randint(0, CLASSES, (12,))})

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores, labels = model(batch["x"]), batch["y"]
        if task == "numbers":
            return F.mse_loss(scores[:, 0], labels.float())
        if task == "made up":
            labels = torch.randint(0, CLASSES, labels.shape)
        if task == "several views":
            return F.cross_entropy(scores @ model(batch["x"]).T, torch.arange(len(scores)))
        return F.cross_entropy(scores, labels)

    def predict(model: nn.Module, batch: Batch) -> Tensor:
        times = 8 if task == "averaged" else 1
        return torch.stack([model(batch["x"]) for _ in range(times)]).mean(0)

    subject = Subject(
        Cloud(way, noisy),
        batches,
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        predict=predict,
    )
    judged = check(subject, chosen(["WIR006"]))
    assert judged.not_judged == ()
    return [one for one in judged.findings if one.verdict.rank > Verdict.NOTE.rank]


@pytest.mark.parametrize(
    ("way", "noisy"),
    [
        *((way, noisy) for way in ("start", "numpy", "host", "order") for noisy in (False, True)),
        *(("gate", True), ("dropped", True), ("dropped", False)),
    ],
)
def test_what_is_picked_at_random_is_told_with_the_line_that_draws(way: str, noisy: bool) -> None:
    [found] = told(way, noisy)
    assert (found.code, found.verdict) == ("WIR006", Verdict.WARN)
    assert "`y`" in found.message
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    drawn = next(i for i, line in enumerate(lines, 1) if line.endswith(f"# {way}"))
    assert (found.source or "").endswith(f".py:{drawn}")


@pytest.mark.parametrize(
    "way",
    [
        *("first", "training", "sampled", "several", "patches", "masked"),
        *("even noise", "for nothing"),
    ],
)
@pytest.mark.parametrize("noisy", [False, True])
def test_noise_estimates_and_sampled_answers_are_no_warning(way: str, noisy: bool) -> None:
    assert told(way, noisy) == []


@pytest.mark.parametrize("task", ["numbers", "made up", "several views", "averaged"])
def test_a_pick_that_no_class_of_the_batch_scores_is_no_warning(task: str) -> None:
    assert told("start", task=task) == []
