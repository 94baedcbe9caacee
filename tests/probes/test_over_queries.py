"""Attention that is normalised over its queries, and the padding that counts in it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything


class Reader(nn.Module):
    """Every question reads a text. axis: of the softmax. mean: over the padded text, or none."""

    def __init__(self, axis: int, mean: bool) -> None:
        super().__init__()
        self.axis, self.mean = axis, mean
        self.text, self.ask, self.head = (
            nn.Embedding(40, 16),
            nn.Embedding(40, 16),
            nn.Linear(16, 3),
        )
        nn.init.normal_(self.text.weight, std=0.5)

    def forward(self, ids: Tensor, asked: Tensor) -> Tensor:
        keep = ids != 0
        values = self.text(ids) * keep[..., None] + 0.1
        scores = torch.tanh(self.ask(asked)[:, :, None] + values[:, None]).sum(-1)
        weights = F.softmax(scores.masked_fill(~keep[:, None], -1e9), dim=self.axis)
        read = weights @ values
        if self.mean:
            read = read + (values * keep[..., None]).mean(1, keepdim=True)
        logits: Tensor = self.head(torch.tanh(read))
        return logits


@pytest.mark.parametrize(
    ("axis", "mean", "codes"),
    [(1, False, {"WIR014"}), (1, True, {"WIR014", "MSK004"}), (2, False, set())],
)
def test_padding_that_counts_by_it_alone_is_no_finding_of_its_own(
    axis: int, mean: bool, codes: set[str]
) -> None:
    seed_everything(0)
    lengths = torch.tensor([9, 8, 6, 5, 4, 9])
    ids = torch.randint(1, 40, (6, 9)).masked_fill(torch.arange(9) >= lengths[:, None], 0)
    batch = {"ids": ids, "asked": torch.randint(0, 40, (6, 4)), "y": torch.randint(0, 3, (6, 4))}
    subject = Subject(
        Reader(axis, mean),
        [batch],
        lambda m, b: F.cross_entropy(m(b["ids"], b["asked"]).flatten(0, 1), b["y"].flatten()),
        lambda m: torch.optim.Adam(m.parameters()),
        predict=lambda m, b: m(b["ids"], b["asked"]),
    )
    found = check(subject, chosen(["WIR014", "MSK004"])).findings
    assert {each.code for each in found} == codes
