"""Batches of (time, sample): what the second axis mixes is told, the first one's order is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
STEPS, ENVS = 9, 12


class Policy(nn.Module):
    """A state that is put to zero where an episode begins; as many units as there are episodes."""

    def __init__(self, reset: str) -> None:
        super().__init__()
        self.cell, self.head, self.reset = nn.GRUCell(6, ENVS), nn.Linear(ENVS, 2), reset

    def forward(self, seen: Tensor, began: Tensor) -> Tensor:
        state = seen.new_zeros(seen.shape[1], ENVS)
        states = []
        for t in range(len(seen)):
            alive = 1 - began[t]
            state = self.cell(seen[t], state * (alive if self.reset == "units" else alive[:, None]))
            states.append(state)
        out: Tensor = self.head(torch.stack(states))
        return out


class Rows(nn.Module):
    """A state that goes from sample to sample, of rows that are padded."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(20, 8), nn.GRUCell(8, 8), nn.Linear(8, 20)

    def forward(self, ids: Tensor) -> Tensor:
        state = torch.zeros(ids.shape[1], 8)
        states = []
        for row in self.table(ids):
            state = self.cell(row, state)
            states.append(state)
        out: Tensor = self.head(torch.stack(states))
        return out


def judged(model: nn.Module, batch: Batch, *keys: str) -> list[Finding]:
    def predict(each: nn.Module, b: Batch) -> Tensor:
        out: Tensor = each(*(b[key] for key in keys))
        return out

    def loss(each: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(predict(each, b).flatten(0, 1), b["gold"].flatten())

    def sgd(each: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(each.parameters(), lr=0.1)

    subject = Subject(model, [batch], loss, sgd, predict=predict)
    return list(check(subject, chosen(only=["MSK002"])).findings)


@pytest.mark.parametrize(("reset", "verdict"), [("units", Verdict.WARN), ("rows", Verdict.NOTE)])
def test_a_reset_over_units_is_told_where_time_comes_first(reset: str, verdict: Verdict) -> None:
    seed_everything(0)
    began = (torch.rand(STEPS, ENVS) < 0.25).float()
    gold = torch.randint(2, (STEPS, ENVS))
    batch = {"seen": torch.randn(STEPS, ENVS, 6), "began": began, "gold": gold}
    (found,) = judged(Policy(reset), batch, "seen", "began")
    assert found.verdict is verdict
    assert ("on the second axis" in found.message) == (reset == "units")


def test_a_state_that_goes_from_one_padded_row_to_the_next_is_told_all_the_same() -> None:
    seed_everything(0)
    ids = torch.randint(1, 20, (11, 7))
    for row, end in enumerate((3, 7, 5, 4, 6, 7, 2, 5, 6, 4, 3)):
        ids[row, end:] = 0
    (found,) = judged(Rows(), {"ids": ids, "gold": ids.roll(1)}, "ids")
    assert found.verdict is Verdict.WARN
