"""Places of patches, answers and pointers, where the model puts something before what they name."""

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
DIM, N, PATCHES, HIDDEN, LENGTH = 16, 24, 16, 6, 9


def gathered(h: Tensor, at: Tensor) -> Tensor:
    return h.gather(1, at[..., None].expand(-1, -1, h.shape[-1]))


def said(
    model: nn.Module, batches: list[Batch], loss: Callable[[nn.Module, Batch], Tensor]
) -> tuple[Finding, ...]:
    subject = Subject(model, batches, loss, lambda m: torch.optim.Adam(m.parameters()))
    return check(subject, chosen(["IDX001"])).findings


def mixer() -> nn.Module:
    return nn.TransformerEncoderLayer(DIM, 2, 32, dropout=0.0, batch_first=True)


class Masked(nn.Module):
    """Tells hidden patches of 2 x 2. by: added to their places.

    draws: by the model; else by the batch. keeps: the visible ones are taken before `cls` is laid
    in front, and the hidden ones are filled in before the second part.
    """

    def __init__(self, by: int, draws: bool = False, keeps: bool = False) -> None:
        super().__init__()
        self.cut, self.blank = nn.Conv2d(1, DIM, 2, 2), nn.Parameter(torch.randn(DIM))
        self.cls = nn.Parameter(torch.randn(1, 1, DIM))
        self.place = nn.Parameter(torch.randn(PATCHES, DIM))
        self.block, self.second, self.head = mixer(), mixer(), nn.Linear(DIM, 4)
        self.by, self.draws, self.keeps = by, draws, keeps

    def forward(self, images: Tensor, holes: Tensor) -> tuple[Tensor, Tensor]:
        if self.draws:
            holes = torch.rand(len(images), PATCHES).argsort(1)[:, :HIDDEN]
        x = self.cut(images).flatten(2).transpose(1, 2)
        hides = torch.zeros(len(x), PATCHES, dtype=torch.bool).scatter(1, holes, True)
        cls = self.cls.expand(len(x), -1, -1)
        if self.keeps:
            order = hides.long().argsort(dim=1, stable=True)
            seen = gathered(x + self.place, order[:, : PATCHES - HIDDEN])
            seen = self.block(torch.cat([cls, seen], 1))
            full = torch.cat([seen[:, 1:], self.blank.expand(len(x), HIDDEN, -1)], 1)
            x = torch.cat([seen[:, :1], gathered(full, order.argsort(1)) + self.place], 1)
        else:
            x = torch.where(hides[..., None], self.blank, x) + self.place
            x = self.block(torch.cat([cls, x], 1))
        return self.head(gathered(self.second(x), holes + self.by)), holes


def images() -> list[Batch]:
    chance = torch.Generator().manual_seed(2)
    batches = []
    for _ in range(4):
        x = torch.rand(N, 1, 8, 8, generator=chance)
        holes = torch.rand(N, PATCHES, generator=chance).argsort(1)[:, :HIDDEN]
        patches = x.unfold(2, 2, 2).unfold(3, 2, 2).reshape(N, PATCHES, 4)
        batches.append({"x": x, "holes": holes, "pixels": gathered(patches, holes)})
    return batches


def by_batch(model: nn.Module, b: Batch) -> Tensor:
    return F.mse_loss(model(b["x"], b["holes"])[0], b["pixels"])


def by_model(model: nn.Module, b: Batch) -> Tensor:
    made, holes = model(b["x"], b["holes"])
    patches = b["x"].unfold(2, 2, 2).unfold(3, 2, 2).reshape(len(holes), PATCHES, 4)
    return F.mse_loss(made, gathered(patches, holes))


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("draws", [False, True])
def test_hidden_patches_are_to_count_cls(draws: bool, keeps: bool) -> None:
    loss = by_model if draws else by_batch
    seed_everything(0)
    (one,) = said(Masked(0, draws, keeps), images(), loss)
    assert "every unit reads 1 row before its own" in one.message
    assert "taken among the tokens alone" in one.message
    assert said(Masked(1, draws, keeps), images(), loss) == ()


class Plain(Masked):
    """The same without a mask that is made of the places."""

    def forward(self, images: Tensor, holes: Tensor) -> tuple[Tensor, Tensor]:
        x = self.cut(images).flatten(2).transpose(1, 2) + self.place
        h = self.second(torch.cat([self.cls.expand(len(x), -1, -1), x], 1))
        return self.head(gathered(h, holes + self.by)), holes


def test_places_by_chance_tell_by_how_often_each_is_read() -> None:
    seed_everything(0)
    (one,) = said(Plain(0), images(), by_batch)
    assert "as often as any token" in one.message
    assert said(Plain(1), images(), by_batch) == ()
    counted = [b | {"holes": b["holes"] + 1} for b in images()]
    assert said(Plain(0), counted, by_batch) == ()


class Texts(nn.Module):
    """One vector in front of nine ids. read: of what is mixed and of the batch."""

    def __init__(self, read: Callable[[Tensor, Tensor, Batch], Tensor]) -> None:
        super().__init__()
        self.emb, self.front = nn.Embedding(40, DIM), nn.Parameter(torch.randn(1, 1, DIM))
        self.block, self.head, self.read = mixer(), nn.Linear(DIM, 4), read

    def forward(self, b: Batch) -> Tensor:
        x = self.emb(b["ids"])
        h = self.block(torch.cat([self.front.expand(len(x), -1, -1), x], 1))
        scores: Tensor = self.head(self.read(h, x, b))
        return scores


def ids(**more: Tensor) -> list[Batch]:
    chance = torch.Generator().manual_seed(5)
    words = torch.randint(1, 40, (4, N, LENGTH), generator=chance)
    kinds = torch.randint(0, 4, (4, N), generator=chance)
    return [
        {"ids": words[i], "kind": kinds[i], **{key: each[i] for key, each in more.items()}}
        for i in range(4)
    ]


def of_kind(model: nn.Module, b: Batch) -> Tensor:
    scores = model(b)
    return F.cross_entropy(scores if scores.ndim == 2 else scores.mean(1), b["kind"])


def begin(h: Tensor, x: Tensor, b: Batch) -> Tensor:
    """0 says that there is no answer."""
    return h[torch.arange(len(h)), b["answer"]]


def pointed(h: Tensor, x: Tensor, b: Batch) -> Tensor:
    """Steps of a pointer, of which 0 stops."""
    return gathered(h, b["steps"])


def last(h: Tensor, x: Tensor, b: Batch) -> Tensor:
    """The last token's, with that before it is mixed and after."""
    rows = torch.arange(len(h))
    return h[rows, b["count"]] + x[rows, b["count"] - 1]


def summed(h: Tensor, x: Tensor, b: Batch) -> Tensor:
    """Sums from the start, of which the first is nought, between two places."""
    sums = h[:, 1:].cumsum(1)
    sums = torch.cat([torch.zeros_like(sums[:, :1]), sums], 1)
    return gathered(sums, b["low"] + 2) - gathered(sums, b["low"])


def best(h: Tensor, x: Tensor, b: Batch) -> Tensor:
    return gathered(h, h.sum(-1).topk(3, 1).indices)


def table(h: Tensor, x: Tensor, b: Batch) -> Tensor:
    """Items of which the first says that there is none."""
    return h[:, 0] + h[:, b["answer"][0]] * 0 + h.new_ones(LENGTH + 1, DIM)[b["answer"]]


@pytest.mark.parametrize("read", [begin, pointed, last, summed, best, table])
def test_what_counts_the_front_or_means_it_is_healthy(
    read: Callable[[Tensor, Tensor, Batch], Tensor],
) -> None:
    chance = torch.Generator().manual_seed(6)
    answer = torch.randint(0, LENGTH + 1, (4, N), generator=chance)
    steps = torch.randint(1, LENGTH + 1, (4, N, 4), generator=chance)
    steps[..., -1] = 0
    count = torch.randint(1, LENGTH + 1, (4, N), generator=chance)
    low = torch.tensor([0, 3, 6]).expand(4, N, 3) + torch.randint(0, 2, (4, N, 3), generator=chance)
    seed_everything(0)
    model = Texts(read)
    assert said(model, ids(answer=answer, steps=steps, count=count, low=low), of_kind) == ()
