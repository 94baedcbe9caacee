"""Each label's loss is masked by where it is known itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = None


class Patient(nn.Module):
    """A number and three classes of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 64), nn.ReLU())
        self.stay, self.cause = nn.Linear(64, 1), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return self.stay(hidden).squeeze(1), self.cause(hidden)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    stay, cause = model(batch["x"])
    known = batch["cause_known"]
    wrong = F.cross_entropy(cause, batch["cause"], reduction="none") * known
    far = F.mse_loss(stay, batch["stay"], reduction="none") * batch["stay_known"]
    return wrong.mean() + far.mean()


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(48, 8, generator=chance)
    stay_known, cause_known = torch.rand(2, 48, generator=chance) < 0.6
    return Subject(
        Patient(),
        [
            {
                "x": x,
                "stay": torch.where(stay_known, x[:, 0] - x[:, 1], 0.0),
                "stay_known": stay_known.float(),
                "cause": torch.where(cause_known, x[:, 2:5].argmax(1), 0),
                "cause_known": cause_known.float(),
            }
        ],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
    )
