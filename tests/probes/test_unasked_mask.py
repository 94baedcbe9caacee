"""Flags of which labels are known: read by nobody, or by the loss, or of another meaning."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Terms = Callable[["Heads", Batch], Tensor]


class Heads(nn.Module):
    """A number, another one, and four classes of each place."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.kind = nn.Linear(6, 1), nn.Linear(6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.one(x).squeeze(-1), self.two(x).squeeze(-1), self.kind(x)


def far(one: Tensor, other: Tensor) -> Tensor:
    return F.smooth_l1_loss(one, other, reduction="none")


def missing(model: Heads, b: Batch) -> Tensor:
    """The second number is not masked at all."""
    one, two, _ = model(b["x"])
    return (far(one, b["one"]) * b["one_known"]).mean() + far(two, b["two"]).mean()


def mistaken(model: Heads, b: Batch) -> Tensor:
    one, two, _ = model(b["x"])
    return ((far(one, b["one"]) + far(two, b["two"])) * b["one_known"]).mean()


def of_classes(model: Heads, b: Batch) -> Tensor:
    one, _, kind = model(b["x"])
    wrong = F.cross_entropy(kind, b["kind"])
    return (far(one, b["one"]) * b["one_known"]).mean() + wrong


def right(model: Heads, b: Batch) -> Tensor:
    one, two, _ = model(b["x"])
    return (far(one, b["one"]) * b["one_known"] + far(two, b["two"]) * b["two_known"]).mean()


def by_label(model: Heads, b: Batch) -> Tensor:
    """What is filler is known by the label itself."""
    one, two, _ = model(b["x"])
    return (far(one, b["one"]) * b["one_known"] + far(two, b["two"]) * (b["two"] != 0)).mean()


def alone(model: Heads, b: Batch) -> Tensor:
    """Nothing is paid where nothing is sold."""
    return far(model(b["x"])[1], b["two"]).mean()


def background(model: Heads, b: Batch) -> Tensor:
    """Boxes where there is something, and a class everywhere, of which 0 is nothing."""
    one, _, kind = model(b["x"])
    wrong = F.cross_entropy(kind, b["kind"])
    return (far(one, b["one"]) * b["one_known"]).mean() + wrong


def ends(model: Heads, b: Batch) -> Tensor:
    """What is paid at the end alone; behind it nothing is scored, of either number."""
    one, two, _ = model(b["x"])
    return ((far(one, b["one"]) + far(two, b["two"])) * b["there"]).mean()


def made(loss: Terms) -> Batch:
    known = torch.rand(3, 40) < 0.6
    x, numbers, kind = torch.randn(40, 6), torch.randn(2, 40), torch.randint(4, (40,))
    batch = {"x": x, "one": numbers[0] * known[0], "one_known": known[0].float()}
    if loss is of_classes:
        return batch | {"kind": kind * known[2], "kind_known": known[2].float()}
    if loss is background:
        kind = (1 + kind.clamp(max=2)) * known[0]
        return batch | {"kind": kind, "some": known[0].long()}
    if loss is ends:
        there, end = torch.arange(12) < 8, torch.arange(12) == 7
        there, end = there.expand(40, 12), end.expand(40, 12)
        return {
            "x": torch.randn(40, 12, 6),
            "one": torch.randn(40, 12) * there,
            "two": torch.randn(40, 12) * end,
            "there": there.float(),
            "end": end.float(),
        }
    return batch | {"two": numbers[1] * known[1], "two_known": known[1].float()}


def said(loss: Terms) -> list[Finding]:
    seed_everything(0)
    subject = Subject(
        Heads(),
        [made(loss)],
        loss,
        lambda m: torch.optim.Adam(m.parameters()),
        predict=lambda m, b: dict(zip(("one", "two", "kind"), m(b["x"]), strict=True)),
    )
    return list(check(subject, chosen(["LBL014"])).findings)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (missing, "`one` is masked by `one_known`"),
        (mistaken, "they are masked by `one_known`, as `one` is"),
        (of_classes, "`kind_known`, which says where `kind` is known"),
    ],
)
def test_filler_that_is_scored_is_told(loss: Terms, words: str) -> None:
    [found] = said(loss)
    assert words in found.message
    assert found.source is not None


@pytest.mark.parametrize("loss", [right, by_label, alone, background, ends])
def test_what_is_masked_or_means_what_it_says_is_well(loss: Terms) -> None:
    assert said(loss) == []
