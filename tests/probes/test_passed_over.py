"""Ids that an operator leaves out by itself are no content that padding could have otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
LONG, WORDS = 7, 30


class Pointer(nn.Module):
    """Which item comes next, told which came before; padding of the order is -1."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.start = nn.Linear(3, 16), nn.Parameter(torch.randn(16))
        self.reads = nn.GRU(16, 16, batch_first=True)

    def forward(self, items: Tensor, count: Tensor, order: Tensor) -> Tensor:
        seen = self.items(items)
        pick = order.clamp_min(0)[..., None].expand(-1, -1, 16)
        before = [self.start.expand(len(items), 1, -1), seen.gather(1, pick)[:, :-1]]
        state, _ = self.reads(torch.cat(before, 1))
        away = torch.arange(LONG) >= count[:, None]
        return (state @ seen.transpose(1, 2)).masked_fill(away[:, None], -1e9)


class Bag(nn.Module):
    """The mean of words; of those that are not `pad`, where it is told of one."""

    def __init__(self, pad: int | None) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(WORDS, 16, padding_idx=pad)
        self.head, self.long = nn.Linear(16, 3), nn.Linear(1, 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        out: Tensor = self.head(self.table(ids)) + self.long(lengths[:, None] / LONG)
        return out


def said(model: nn.Module, batch: Batch, loss: Loss) -> list[str]:
    def adam(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.01)

    subject = Subject(model, [batch], loss, adam)
    return [each.code for each in check(subject, chosen(["MSK001", "LBL003"])).findings]


@pytest.mark.parametrize("scored", [False, True])
def test_an_order_that_is_read_and_asked_for_is_left_out_where_it_is_padding(scored: bool) -> None:
    seed_everything(0)
    count = torch.arange(16) % 5 + 3
    here = torch.arange(LONG) < count[:, None]
    items = torch.randn(16, LONG, 3) * here[..., None]
    order = items[..., 0].masked_fill(~here, torch.inf).argsort(1).masked_fill(~here, -1)

    def loss(model: nn.Module, b: Batch) -> Tensor:
        scores = model(b["items"], b["count"], b["order"]).flatten(0, 1)
        gold = b["order"].flatten()
        return F.cross_entropy(scores, gold.clamp_min(0) if scored else gold, ignore_index=-1)

    found = said(Pointer(), {"items": items, "count": count, "order": order}, loss)
    assert found == (["MSK001"] if scored else [])


@pytest.mark.parametrize(("pad", "codes"), [(0, []), (None, ["MSK001"])])
def test_a_bag_that_is_told_its_padding_does_not_read_it(pad: int | None, codes: list[str]) -> None:
    seed_everything(0)
    lengths = torch.arange(16) % 5 + 3
    ids = torch.randint(1, WORDS, (16, LONG)) * (torch.arange(LONG) < lengths[:, None])

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(model(b["ids"], b["lengths"]), b["label"])

    batch = {"ids": ids, "lengths": lengths, "label": ids[:, 0] % 3}
    assert said(Bag(pad), batch, loss) == codes
