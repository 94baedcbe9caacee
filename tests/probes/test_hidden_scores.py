"""Scores of hidden places: one finding tells of them, and of where they are handed to the loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Layout, Mask, Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


class Tagger(nn.Module):
    """A class for every token, padding or not."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(40, 16), nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.relu(self.words(ids)))
        return scores


def said(ignored: int, weight: float) -> list[Finding]:
    seed_everything(0)
    lengths = torch.randint(4, 12, (8,))
    mask = torch.arange(12) < lengths[:, None]
    ids = torch.randint(1, 40, (8, 12)).masked_fill(~mask, 0)
    batch = {"ids": ids, "mask": mask.long(), "tags": (ids % 5).masked_fill(~mask, ignored)}

    def loss(model: nn.Module, b: Batch) -> Tensor:
        scores = model(b["ids"])
        right = F.cross_entropy(scores.flatten(0, 1), b["tags"].flatten())
        value: Tensor = right + weight * scores.square().mean()
        return value

    subject = Subject(
        Tagger(),
        [batch],
        loss,
        lambda m: torch.optim.Adam(m.parameters()),
        predict=lambda m, b: m(b["ids"]),
        layout=Layout(masks=(Mask("mask", hides=("ids",)),)),
    )
    return list(check(subject, chosen(["MSK001", "LBL003"])).findings)


@pytest.mark.parametrize(
    ("ignored", "weight", "codes"),
    [(0, 0.0, ["LBL003"]), (-100, 0.0, []), (0, 1.0, ["LBL003", "MSK001"])],
)
def test_what_the_loss_takes_from_scores_of_padding_is_no_leak_of_the_model(
    ignored: int, weight: float, codes: list[str]
) -> None:
    found = said(ignored, weight)
    assert sorted(each.code for each in found) == codes
    places = {each.source for each in found if each.code == "LBL003"}
    assert all(place and "test_hidden_scores.py" in place for place in places)
