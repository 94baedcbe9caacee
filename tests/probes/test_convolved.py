"""What a convolution gave and is cut into anchors: with its axes moved first, or as they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Lay = Callable[[Tensor], Tensor]


class Boxes(nn.Module):
    """4 numbers of each of 2 anchors a cell: as many channels as there are rows and columns."""

    def __init__(self, lay: Lay, blank: bool) -> None:
        super().__init__()
        self.head, self.lay = nn.Conv2d(3, 8, 1), lay
        for each in self.head.parameters():
            each.data *= not blank

    def forward(self, image: Tensor) -> Tensor:
        return self.lay(self.head(image)).reshape(len(image), -1, 4)


@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize(
    ("lay", "count"),
    [
        (lambda x: x, 1),
        (torch.sigmoid, 1),
        (lambda x: x.permute(0, 2, 3, 1), 0),
        (lambda x: x.permute(0, 2, 3, 1).contiguous(), 0),
        (lambda x: torch.einsum("nchw->nhwc", x), 0),
        (lambda x: x.movedim(1, -1).tanh(), 0),
    ],
)
def test_axes_of_one_length_that_were_moved_before_the_cut_are_not_mixed(
    lay: Lay, count: int, blank: bool
) -> None:
    seed_everything(0)
    batch = {"image": torch.randn(6, 3, 8, 8), "boxes": torch.randn(6, 128, 4)}
    subject = Subject(
        Boxes(lay, blank),
        [batch],
        lambda model, b: F.smooth_l1_loss(model(b["image"]), b["boxes"]),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        predict=lambda model, b: model(b["image"]),
    )
    assert len(check(subject, chosen(only=["IDX005"])).findings) == count
