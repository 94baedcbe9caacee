"""A softmax that meets a one-hot of labels, along the axis of the classes or another."""

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

Batch = dict[str, Tensor]
Loss = Callable[[Tensor, Batch], Tensor]
N, CLASSES, SIDE, WIDTH = 5, 4, 6, 8


class Net(nn.Module):
    """Scores of classes by pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x).relu())
        return scores


def said(loss: Loss) -> list[Finding]:
    seed_everything(0)
    batch = {"x": torch.randn(N, 3, SIDE, SIDE), "y": torch.randint(0, CLASSES, (N, SIDE, SIDE))}
    batch["y"][0, 0, 0] = -1
    subject = Subject(
        Net(),
        [batch],
        lambda model, b: loss(model(b["x"]), b),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    judged = check(subject, chosen(["WIR014"]))
    assert not judged.not_judged
    return list(judged.findings)


def hot(batch: Batch) -> Tensor:
    """(sample, class, row, column), zeros where nothing is known."""
    of = F.one_hot(batch["y"].clamp(min=0), CLASSES).permute(0, 3, 1, 2).float()
    return of * (batch["y"] >= 0)[:, None]


def entropy(scores: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(scores, batch["y"], ignore_index=-1)


def overlap(shares: Tensor, of: Tensor) -> Tensor:
    both = (shares * of).sum((0, 2, 3))
    return 1 - ((2 * both + 1) / (shares.sum((0, 2, 3)) + of.sum((0, 2, 3)) + 1)).mean()


def dice(axis: int) -> Loss:
    return lambda z, b: entropy(z, b) + overlap(z.float().softmax(axis), hot(b))


def dice_alone(axis: int) -> Loss:
    return lambda z, b: overlap(F.softmax(z, axis)[:, 1:], hot(b)[:, 1:]) + 0 * z.sum()


def flat(axis: int) -> Loss:
    """Tversky's, of places in one row, beside cross entropy."""

    def loss(z: Tensor, b: Batch) -> Tensor:
        shares, of = z.softmax(axis).flatten(2), hot(b).flatten(2)
        hits, missed = (shares * of).sum((0, 2)), ((1 - shares) * of).sum((0, 2))
        return entropy(z, b) - (hits / (hits + missed + 1)).mean()

    return loss


def brier(axis: int) -> Loss:
    return lambda z, b: F.mse_loss(z.softmax(axis), hot(b))


def focal(axis: int) -> Loss:
    def loss(z: Tensor, b: Batch) -> Tensor:
        own = (z.softmax(axis) * hot(b)).sum(1)
        return -(((1 - own) ** 2) * (own + 1e-6).log()).mean()

    return loss


def by_hand(axis: int) -> Loss:
    """Cross entropy of (sample, place, class)."""

    def loss(z: Tensor, b: Batch) -> Tensor:
        rows, of = z.flatten(2).transpose(1, 2), hot(b).flatten(2).transpose(1, 2)
        return -torch.einsum("nlc,nlc->nl", rows.log_softmax(axis), of).mean()

    return loss


WRONG = (dice(3), dice(-2), dice_alone(-1), flat(-1), brier(2), focal(-1), by_hand(1))
RIGHT = (dice(1), dice_alone(1), flat(1), brier(1), focal(1), by_hand(2))


@pytest.mark.parametrize("loss", WRONG)
def test_places_that_compete_for_each_class_are_told(loss: Loss) -> None:
    (one,) = said(loss)
    assert (one.verdict, one.site) == (Verdict.WARN, "<loss>")
    assert "with a one-hot of `y`, whose" in one.message
    assert one.source is not None


@pytest.mark.parametrize("loss", RIGHT)
def test_classes_that_compete_are_silent(loss: Loss) -> None:
    assert said(loss) == []


def key_points(z: Tensor, b: Batch) -> Tensor:
    """Where each class's heat is, beside what each pixel is."""
    heat = z.flatten(2).softmax(-1).view_as(z)
    along = torch.linspace(0, 1, SIDE)
    return entropy(z, b) + (heat.sum(2) * along).sum(-1).var() + (heat.sum(3) * along).sum(-1).var()


def share_inside(z: Tensor, b: Batch) -> Tensor:
    """How much of a class's attention over all places lies within its own region."""
    heat = z.flatten(2).softmax(-1)
    inside = (heat * hot(b).flatten(2)).sum(-1)
    return entropy(z, b) - (inside / heat.sum(-1) + 1e-3).log().mean()


def regions(z: Tensor, b: Batch) -> Tensor:
    """A class's vector is a mean over places, by scores that are scored by class as well."""
    vectors = torch.einsum("ncl,nkl->nck", z.flatten(2).softmax(-1), z.flatten(2))
    return entropy(z, b) + vectors.square().mean()


def aligned(z: Tensor, b: Batch) -> Tensor:
    """Words of one text to words of another, both ways; several may have one partner."""
    scores = z[:, 0] @ z[:, 1].transpose(1, 2)
    gold = F.one_hot(b["y"].clamp(min=0)[:, 0], SIDE).float()
    both = (scores.softmax(-1) * gold).sum() + (scores.softmax(-2) * gold).sum()
    return -both / gold.sum() + (scores.softmax(1) * scores.softmax(2)).square().mean()


def by_heads(z: Tensor, b: Batch) -> Tensor:
    """The same with two heads that share the gold, by scores that are no products."""
    scores = torch.tanh(z[:, :2, :, :, None] + z[:, 2:, :, None]).sum(2)
    gold = F.one_hot(b["y"].clamp(min=0)[:, 0], SIDE).float()[:, None].expand(-1, 2, -1, -1)
    back = (scores.log_softmax(-2) * gold).sum(-1)
    return -back.mean() - (scores.softmax(-1) * gold).sum(-1).mean()


def matched(z: Tensor, b: Batch) -> Tensor:
    """One partner each, of scores that are no products, both ways."""
    scores = (z[:, 0, :, None] - z[:, 1, None]).abs().sum(-1)
    gold = F.one_hot(torch.arange(SIDE - 1, -1, -1), SIDE).expand(N, -1, -1).float()
    return -((scores.softmax(1) + scores.softmax(2)) * gold).sum((1, 2)).mean() + entropy(z, b)


def balanced(z: Tensor, b: Batch) -> Tensor:
    """Sinkhorn's: rows and columns sum to one by turns."""
    logs = z[:, 0]
    for _ in range(3):
        logs = logs.log_softmax(1).log_softmax(2)
    return entropy(z, b) + (logs.exp() * z[:, 1]).mean()


def axial(z: Tensor, b: Batch) -> Tensor:
    """Attention along rows that is multiplied with what it weighs."""
    return entropy(z + (z.softmax(3) * z).sum(3, keepdim=True) + z.softmax(2), b)


def nothing(z: Tensor, b: Batch) -> Tensor:
    """A class that no sample has, of which there are no rows."""
    shares, of = z[:0].softmax(3), hot(b)[:0]
    return (
        entropy(z, b) + (shares * of).sum() + shares.sum(3).sum() + shares[:, :0].sum((2, 3)).sum()
    )


@pytest.mark.parametrize(
    "loss",
    [key_points, share_inside, regions, aligned, by_heads, matched, balanced, axial, nothing],
)
def test_what_is_spread_over_places_on_purpose_is_silent(loss: Loss) -> None:
    assert said(loss) == []
