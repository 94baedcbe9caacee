"""Several outputs for each cell of an image, and labels that lie as they do, or do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checks.label_place import LabelPlace
from probes.experiment import Experiment

KINDS, SIDE, CLASSES = 3, 6, 3


class Dense(nn.Module):
    """Scores for every kind in every cell. by_cell: those of a cell lie side by side."""

    def __init__(self, by_cell: bool) -> None:
        super().__init__()
        self.by_cell = by_cell
        self.read = nn.Conv2d(2, KINDS * CLASSES, 3, stride=2, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        scores = self.read(image).view(len(image), KINDS, CLASSES, SIDE, SIDE)
        order = (0, 3, 4, 1, 2) if self.by_cell else (0, 1, 3, 4, 2)
        return scores.permute(order).reshape(len(image), -1, CLASSES)


def found(outputs_by_cell: bool, labels_by_cell: bool) -> list[str]:
    chance = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    kind = torch.randint(0, KINDS, (24, SIDE, SIDE), generator=chance)
    what = torch.randint(1, CLASSES, (24, SIDE, SIDE), generator=chance)
    cells = torch.stack([what, kind], 1).double().float()
    image = cells.repeat_interleave(2, 2).repeat_interleave(2, 3)
    labels = torch.zeros(24, SIDE, SIDE, KINDS, dtype=torch.long)
    labels.scatter_(3, kind[..., None], what[..., None])
    laid = labels if labels_by_cell else labels.movedim(3, 1)
    subject = Subject(
        Dense(outputs_by_cell),
        [{"image": image, "labels": laid.flatten(1)}],
        lambda model, batch: nn.functional.cross_entropy(
            model(batch["image"]).flatten(0, 1), batch["labels"].flatten()
        ),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    )
    return [each.message for each in LabelPlace().judge(Experiment.of(subject))]


@pytest.mark.parametrize("by_cell", [True, False])
def test_labels_that_lie_another_way_are_told(by_cell: bool) -> None:
    (message,) = found(not by_cell, by_cell)
    assert ("`labels` lies cell by cell" in message) == by_cell


@pytest.mark.parametrize("by_cell", [True, False])
def test_labels_that_lie_as_outputs_do_are_silence(by_cell: bool) -> None:
    assert found(by_cell, by_cell) == []
