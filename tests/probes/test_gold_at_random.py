"""Predictions that are fed labels by chance, and those that draw for another reason."""

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

CLASSES, WIDTH = 9, 16


class Translator(nn.Module):
    """Feeds each step a label or its own answer, as `way` says; `noisy`: its state is blurred."""

    def __init__(self, way: str, noisy: bool, time_first: bool) -> None:
        super().__init__()
        self.way, self.noisy, self.time_first = way, noisy, time_first
        self.embed = nn.Embedding(CLASSES, WIDTH)
        self.encoder = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.cell = nn.GRUCell(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        if self.time_first:
            source, target = source.T, target.T
        state = self.encoder(self.embed(source))[1][0]
        if self.noisy:
            state = state + torch.randn_like(state)
        whole = self.way == "whole" and random.random() < 0.5  # whole
        token, found = target[:, 0], []
        for t in range(1, target.shape[1]):
            state = self.cell(self.embed(token), state)
            found.append(self.head(state))
            own = self._own(found[-1])
            token = torch.where(self._is_fed(len(own), whole), target[:, t], own)
        out = torch.stack(found, 1)
        return out.transpose(0, 1) if self.time_first else out

    def _own(self, scores: Tensor) -> Tensor:
        if self.way == "sampled":
            return torch.multinomial(scores.softmax(-1), 1)[:, 0]
        return scores.argmax(1)

    def _is_fed(self, count: int, whole: bool) -> Tensor:
        if self.way == "by sample":
            return torch.rand(count) < 0.5  # by sample
        if self.way == "numpy":
            return torch.tensor(np.random.rand() < 0.5)  # numpy
        if self.way == "training":
            return torch.tensor(self.training and random.random() < 0.5)
        return torch.tensor(self.way == "always" or whole)


def told(
    way: str, noisy: bool = False, time_first: bool = False, as_ids: bool = False
) -> list[Finding]:
    seed_everything(3)
    batches: list[Batch] = []
    for _ in range(2):
        source = torch.randint(3, CLASSES, (12, 7))
        inner = torch.randint(3, CLASSES, (12, 6))
        target = torch.cat([torch.ones_like(inner[:, :1]), inner, 2 * inner[:, :1] ** 0], 1)
        turned = (source.T.contiguous(), target.T.contiguous())
        batches.append(dict(zip("xy", turned if time_first else (source, target), strict=True)))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        labels = batch["y"][1:] if time_first else batch["y"][:, 1:]
        scores = model(batch["x"], batch["y"])
        return F.cross_entropy(scores.flatten(0, 1), labels.flatten())

    def predict(model: nn.Module, batch: Batch) -> Tensor:
        out: Tensor = model(batch["x"], batch["y"])
        return out.argmax(-1) if as_ids else out

    subject = Subject(
        Translator(way, noisy, time_first),
        batches,
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        predict=predict,
    )
    findings = check(subject, chosen(["WIR006"])).findings
    return [one for one in findings if one.verdict.rank > Verdict.NOTE.rank]


@pytest.mark.parametrize(
    ("way", "noisy", "time_first", "as_ids"),
    [
        ("whole", False, False, False),
        ("numpy", True, False, False),
        ("numpy", False, False, True),
        ("by sample", False, False, False),
        ("by sample", True, True, False),
    ],
)
def test_labels_that_a_draw_feeds_to_a_prediction_are_told_with_the_line_that_draws(
    way: str, noisy: bool, time_first: bool, as_ids: bool
) -> None:
    [found] = told(way, noisy, time_first, as_ids)
    assert (found.code, found.verdict) == ("WIR006", Verdict.WARN)
    assert "the labels in `y`" in found.message
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    drawn = next(i for i, line in enumerate(lines, 1) if line.endswith(f"# {way}"))
    assert found.source is not None
    assert found.source.endswith(f".py:{drawn}")


@pytest.mark.parametrize("way", ["training", "always", "sampled"])
@pytest.mark.parametrize("as_ids", [False, True])
def test_draws_that_do_not_decide_whether_labels_are_read_are_no_warning(
    way: str, as_ids: bool
) -> None:
    assert told(way, noisy=True, as_ids=as_ids) == []
