"""A cell that reads one input from one state several times gives one step several times."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Verdict
from probes.seeding import seed_everything


class RolledOut(nn.Module):
    """A decoder of four steps, which read the last input, and what is made of its state."""

    def __init__(self, way: str, cell: str) -> None:
        super().__init__()
        self.encoder = nn.GRU(2, 6, batch_first=True)
        self.cell = nn.LSTMCell(2, 6) if cell == "lstm" else nn.GRUCell(2, 6)
        self.head = nn.Linear(6, 2)
        self.places = nn.Parameter(torch.randn(4, 6))
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)[1].squeeze(0)
        state = (h, torch.zeros_like(h)) if isinstance(self.cell, nn.LSTMCell) else h
        steps = []
        for place in self.places:
            new = self.cell(x[:, -1], state)
            out = new[0] if isinstance(new, tuple) else new
            if self.way == "carried":
                state = new
            elif self.way == "samples":
                out = F.dropout(out, 0.3, self.training)
            elif self.way == "places":
                out = out + place
            steps.append(self.head(out))
        if self.way == "once":
            return steps[0][:, None] + self.places[:, :2]  # type: ignore[no-any-return]
        return torch.stack(steps, 1)


def said(way: str, cell: str, twice: bool = False) -> list[tuple[str | None, Verdict]]:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        again = F.mse_loss(model(batch["x"]), batch["y"]) if twice else 0
        return F.mse_loss(model(batch["x"]), batch["y"]) + again

    seed_everything(0)
    batches = [{"x": torch.randn(6, 5, 2), "y": torch.randn(6, 4, 2)} for _ in range(2)]
    subject = Subject(
        RolledOut(way, cell), batches, loss, lambda m: torch.optim.Adam(m.parameters(), lr=1e-3),
        predict=lambda m, b: m(b["x"]),
    )  # fmt: skip
    findings = check(subject, chosen(["STA002"])).findings
    assert all(str(f.source).rpartition(":")[0].endswith("test_same_steps.py") for f in findings)
    return [(f.site, f.verdict) for f in findings]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_steps_that_are_one_step_are_told(cell: str) -> None:
    assert said("kept", cell) == [("cell", Verdict.WARN)]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("way", ["carried", "samples", "places", "once"])
def test_steps_that_differ_are_none_of_its_business(way: str, cell: str) -> None:
    assert said(way, cell) == []


def test_a_loss_that_runs_the_model_twice_repeats_no_step() -> None:
    assert said("carried", "gru", twice=True) == []
