"""Labels that stand for other classes than the numbers they hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Labels, Layout, Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
ORDER = torch.tensor([4, 2, 0, 1, 3])


class Scorer(nn.Module):
    """Scores of 5 classes by place; what `bias` holds is added to them."""

    def __init__(self, hidden: int | None) -> None:
        super().__init__()
        self.body = nn.Linear(6, 5)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(x)
        if self.hidden is not None:
            scores = scores.masked_fill(torch.arange(5) == self.hidden, -1e9)
        return scores


def said(loss: Loss, labels: Tensor, hidden: int | None, declared: bool) -> list[Finding]:
    seed_everything(0)
    layout = Layout(labels=(Labels("y", "output", ignore=0),)) if declared else None
    subject = Subject(
        Scorer(hidden),
        [{"x": torch.randn(*labels.shape, 6), "y": labels}],
        loss,
        lambda model: torch.optim.Adam(model.parameters()),
        lambda model, batch: model(batch["x"]),
        layout=layout,
    )
    return list(check(subject, chosen(["IDX003"])).findings)


def from_one(model: nn.Module, batch: Batch) -> Tensor:
    wanted = batch["y"].flatten().long() - 1
    return F.cross_entropy(model(batch["x"]).flatten(0, -2), wanted, ignore_index=-1)


def by_list(model: nn.Module, batch: Batch) -> Tensor:
    wanted = ORDER[(batch["y"].flatten().long() - 1).clamp(0)]
    return F.cross_entropy(model(batch["x"]).flatten(0, -2), wanted)


def from_one_shifted(model: nn.Module, batch: Batch) -> Tensor:
    wanted = batch["y"][:, 1:].flatten().long() - 1
    return F.cross_entropy(model(batch["x"])[:, :-1].flatten(0, 1), wanted, ignore_index=-1)


def left_out(model: nn.Module, batch: Batch) -> Tensor:
    wanted = batch["y"].flatten().long()
    wanted = torch.where(wanted > 4, -100, wanted)
    return F.cross_entropy(model(batch["x"]).flatten(0, -2), wanted)


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
@pytest.mark.parametrize(
    ("loss", "hidden", "words"),
    [
        (from_one, None, None),
        (from_one, 4, "labels in `y` name an output of `output` that is masked away"),
        (by_list, None, None),
        (from_one_shifted, None, None),
        (left_out, None, "labels in `y` are 5 or more"),
    ],
)
def test_labels_are_judged_as_the_classes_that_the_loss_makes_of_them(
    loss: Loss, hidden: int | None, words: str | None, dtype: torch.dtype, declared: bool
) -> None:
    by_place = torch.randint(6, (9, 8), generator=torch.Generator().manual_seed(0))
    by_place = by_place + 1 if loss is left_out else by_place
    by_place = by_place.clamp(1) if loss is by_list else by_place
    found = said(loss, by_place.to(dtype), hidden, declared)
    assert [(words or "") in each.message for each in found] == [True] * (words is not None)
