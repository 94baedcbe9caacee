"""Points at which a map is read: which of two readings goes with their labels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = tuple[Tensor, Tensor, Tensor]
SIDE = 18


class Corners(nn.Module):
    """Reads a small map at one point or several a sample. turns: whether x is given first."""

    def __init__(self, turns: bool, learned: bool = False) -> None:
        super().__init__()
        self.maps, self.head = nn.Conv2d(2, 8, 3, stride=2, padding=1), nn.Linear(8, 3)
        self.turns, self.moved = turns, nn.Parameter(torch.zeros(2)) if learned else 0

    def forward(self, image: Tensor, points: Tensor) -> Tensor:
        grid = points.flip(-1) if self.turns else points
        read = F.grid_sample(self.maps(image), grid[:, :, None] + self.moved, align_corners=False)
        scores: Tensor = self.head(read.squeeze(-1).mT)
        return scores


def drawn(whole: bool = False) -> list[Batch]:
    """Bright crosses, bars and dots, and their points as (row, column) from -1 to 1.

    whole: the class is that of the image and not of the mark.
    """
    chance, batches = torch.Generator().manual_seed(0), []
    for _ in range(8):
        image = 0.2 * torch.randn(14, 2, SIDE, SIDE, generator=chance)
        kind = torch.randint(3, (14, 3), generator=chance)
        at = torch.stack([torch.randperm(9, generator=chance)[:3] for _ in range(14)])
        y, x = 2 + 6 * (at // 3), 3 + 6 * (at % 3)
        for i in range(14):
            for j in range(3):
                image[i, 0, y[i, j] - 1 : y[i, j] + 2, x[i, j]] += kind[i, j] != 2
                image[i, 1, y[i, j], x[i, j] - 1 : x[i, j] + 2] += kind[i, j] != 1
        points = torch.stack([y, x], -1) / SIDE * 2 - 1 + 1 / SIDE
        goal = kind if not whole else torch.randint(3, (14, 1), generator=chance).expand(14, 3)
        batches.append((image, points, goal))
    return batches


def said(model: nn.Module, batches: list[Batch]) -> list[Finding]:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0], batch[1]).flatten(0, 1), batch[2].flatten())

    subject = Subject(model, batches, loss, lambda m: torch.optim.Adam(m.parameters()))
    return list(check(subject, chosen(["IDX017"])).findings)


def test_points_that_are_read_with_their_coordinates_exchanged_are_told() -> None:
    seed_everything(0)
    (found,) = said(Corners(turns=False), drawn())
    assert (found.verdict, found.op) == (Verdict.WARN, "aten.grid_sampler")
    assert "reads (x, y)" in found.message


@pytest.mark.parametrize(
    ("model", "batches"),
    [
        (lambda: Corners(turns=True), drawn),
        (lambda: Corners(turns=False, learned=True), drawn),  # where it reads is to be learned
        (lambda: Corners(turns=False), lambda: drawn(whole=True)),  # no place tells it
    ],
)
def test_points_that_are_read_where_they_are_and_others_are_healthy(
    model: Callable[[], nn.Module], batches: Callable[[], list[Batch]]
) -> None:
    seed_everything(0)
    assert said(model(), batches()) == []
