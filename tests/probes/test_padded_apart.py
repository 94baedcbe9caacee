"""Two keys that happen to be as long, each with padding of its own, or one of them with none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

WIDE = 8


class Pair(nn.Module):
    """Compares the means of two texts, over what is no padding or over all of it."""

    def __init__(self, over_all: bool) -> None:
        super().__init__()
        self.word, self.head = nn.Embedding(30, 16, padding_idx=0), nn.Linear(16, 1)
        self.over_all = over_all

    def encode(self, ids: Tensor) -> Tensor:
        keep = (ids != 0)[..., None]
        count = ids.shape[1] if self.over_all else keep.sum(1).clamp(min=1)
        pooled: Tensor = (self.word(ids) * keep).sum(1) / count
        return pooled

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encode(one) * self.encode(two))
        return logits.squeeze(-1)


def texts(shortest: int) -> Tensor:
    keep = torch.arange(WIDE) < torch.randint(shortest, WIDE + 1, (12, 1))
    return torch.where(keep, torch.randint(1, 30, (12, WIDE)), 0)


@pytest.mark.parametrize("shortest", [2, WIDE])
@pytest.mark.parametrize(("over_all", "codes"), [(False, []), (True, ["MSK004"])])
def test_a_text_is_not_padded_with_words_where_another_has_its_padding(
    over_all: bool, codes: list[str], shortest: int
) -> None:
    seed_everything(0)
    one, two = texts(2), texts(shortest)
    one[0, -2:], two[0] = 0, torch.arange(1, WIDE + 1).flip(0) * torch.tensor([3, 2] * 4) % 29 + 1
    subject = Subject(
        Pair(over_all),
        [{"one": one, "two": two, "same": torch.arange(12) % 2 * 1.0}],
        lambda m, b: F.binary_cross_entropy_with_logits(m(b["one"], b["two"]), b["same"]),
        lambda m: torch.optim.Adam(m.parameters()),
        predict=lambda m, b: m(b["one"], b["two"]),
    )
    found = check(subject, chosen(["MSK004"])).findings
    assert sorted({each.code for each in found}) == codes
