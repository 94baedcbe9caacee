"""Labels that were rolled, whether by the data or by the loss, and rows that end otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checks.label_shift import LabelShift
from probes.experiment import Experiment

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
entropy = nn.functional.cross_entropy


class Reader(nn.Module):
    """A recurrent model of the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(40, 16), nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 40)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(self.embedding(ids))[0])
        return scores


def rolled(model: nn.Module, batch: Batch) -> Tensor:
    return entropy(model(batch["ids"]).transpose(1, 2), batch["ids"].roll(-1, 1))


def by_data(model: nn.Module, batch: Batch) -> Tensor:
    return entropy(model(batch["ids"]).transpose(1, 2), batch["labels"])


def left_out(model: nn.Module, batch: Batch) -> Tensor:
    labels = batch["ids"].roll(-1, 1)
    labels[:, -1] = -100
    return entropy(model(batch["ids"]).transpose(1, 2), labels)


def cut(model: nn.Module, batch: Batch) -> Tensor:
    return entropy(model(batch["ids"])[:, :-1].transpose(1, 2), batch["ids"][:, 1:])


def found(loss: Loss, one_start: bool = False) -> list[str]:
    ids = torch.randint(0, 40, (7, 9), generator=torch.Generator().manual_seed(0))
    if one_start:
        ids[:, 0] = 1
    batch = {"ids": ids} | ({"labels": ids.roll(-1, 1)} if loss is by_data else {})
    subject = Subject(
        Reader(), [batch], loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
    experiment, rule = Experiment.of(subject), LabelShift()
    if rule.lacks(experiment) is not None:
        return []
    return [each.message for each in rule.judge(experiment) if "rolled" in each.message]


@pytest.mark.parametrize("loss", [rolled, by_data])
def test_the_first_id_does_not_follow_the_last(loss: Loss) -> None:
    assert len(found(loss)) == 1


@pytest.mark.parametrize("loss", [left_out, cut])
def test_a_last_place_that_is_asked_for_nothing_is_silence(loss: Loss) -> None:
    assert found(loss) == []


@pytest.mark.parametrize("loss", [rolled, by_data])
def test_what_every_row_begins_with_may_come_after_its_end(loss: Loss) -> None:
    assert found(loss, one_start=True) == []
