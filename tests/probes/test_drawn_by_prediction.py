"""What `predict` draws does not move the loss, which draws after it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

LENGTHS = torch.tensor([9, 8, 7, 5, 4, 3])


class Drawing(nn.Module):
    """Draws once a place, as code does that may feed labels by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor, mask: Tensor, chance: float) -> Tensor:
        hidden = self.embedding(ids)
        for place in range(ids.shape[1]):
            if float(torch.rand(())) < chance:
                hidden = hidden + 0.1 * (place == 0)
        return self.head((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))  # type: ignore[no-any-return]


def test_what_a_longer_prediction_draws_does_not_move_the_loss() -> None:
    seed_everything(0)
    keep = torch.arange(9) < LENGTHS[:, None]
    ids = torch.where(keep, torch.randint(1, 50, (6, 9)), 0)
    batch = {"ids": ids, "mask": keep.long(), "labels": torch.arange(6) % 3}
    subject = Subject(
        Drawing(),
        [batch],
        lambda m, b: F.cross_entropy(m(b["ids"], b["mask"], 0.5), b["labels"]),
        lambda model: torch.optim.Adam(model.parameters()),
        predict=lambda m, b: m(b["ids"], b["mask"], 0.0),
    )
    for seed in range(4):  # one of which draws otherwise after three numbers more
        seed_everything(seed)
        assert check(subject, chosen(["MSK004"])).findings == ()
