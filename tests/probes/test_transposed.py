"""Maps of targets: which of both readings goes with the images."""

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

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
SIDE = 20


class Turns(nn.Module):
    """Gives the image's transpose."""

    def forward(self, image: Tensor) -> Tensor:
        return image.mT


def local(outputs: int) -> nn.Module:
    layers = nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, outputs, 3, padding=1)
    return nn.Sequential(*layers)


def whole(outputs: int) -> nn.Module:
    """Each place sees all of the image."""
    wide = nn.Linear(2 * SIDE**2, outputs * SIDE**2)
    return nn.Sequential(nn.Flatten(), wide, nn.Unflatten(1, (outputs, SIDE, SIDE)))


def drawn(turned: bool, told: bool = True) -> list[Batch]:
    """Blobs of three classes by pixel. turned: the classes are transposed. told: they are shown."""
    chance = torch.Generator().manual_seed(0)
    smooth = F.avg_pool2d(torch.randn(48, 3, SIDE + 6, SIDE + 6, generator=chance), 7, 1)
    kind = smooth.argmax(1)
    image = 0.3 * torch.randn(48, 2, SIDE, SIDE, generator=chance)
    if told:
        image[:, 0] += (kind == 1).float()
        image[:, 1] += (kind == 2).float()
    goal = kind.mT.contiguous() if turned else kind
    return list(zip(image.split(8), goal.split(8), strict=True))


def classes(scores: Tensor, kind: Tensor) -> Tensor:
    return F.cross_entropy(scores, kind)


def squares(scores: Tensor, kind: Tensor) -> Tensor:
    return (scores - F.one_hot(kind, 3).movedim(-1, 1)).pow(2).mean()


def taken(scores: Tensor, kind: Tensor) -> Tensor:
    mask = kind == 1
    return scores.movedim(1, -1)[mask].sigmoid().log().neg().mean()


def at_points(scores: Tensor, kind: Tensor) -> Tensor:
    sample, row, column = (kind == 1).nonzero(as_tuple=True)
    return scores[sample, :, row, column].pow(2).mean()


def said(model: nn.Module, batches: list[Batch], loss: Loss) -> list[Finding]:
    def of(model: nn.Module, batch: Batch) -> Tensor:
        return loss(model(batch[0]), batch[1])

    subject = Subject(model, batches, of, lambda m: torch.optim.Adam(m.parameters()))
    return list(check(subject, chosen(["IDX019"])).findings)


@pytest.mark.parametrize("loss", [classes, squares, taken, at_points])
def test_targets_that_are_the_transpose_of_the_image_are_told(loss: Loss) -> None:
    seed_everything(0)
    (found,) = said(local(3), drawn(turned=True), loss)
    assert (found.verdict, found.site) == (Verdict.WARN, "<loss>")
    assert "at (column, row)" in found.message


@pytest.mark.parametrize("loss", [classes, squares, taken, at_points])
def test_targets_that_lie_where_the_image_shows_them_are_healthy(loss: Loss) -> None:
    seed_everything(0)
    assert said(local(3), drawn(turned=False), loss) == []


@pytest.mark.parametrize(
    ("model", "batches"),
    [
        (lambda: nn.Sequential(Turns(), local(3)), lambda: drawn(turned=True)),
        (lambda: nn.Sequential(local(3), Turns()), lambda: drawn(turned=True)),
        (lambda: whole(3), lambda: drawn(turned=True)),
        (lambda: local(3), lambda: drawn(turned=True, told=False)),
    ],
)
def test_models_that_turn_or_see_all_and_images_that_tell_nothing_are_healthy(
    model: Callable[[], nn.Module], batches: Callable[[], list[Batch]]
) -> None:
    seed_everything(0)
    assert said(model(), batches(), classes) == []
