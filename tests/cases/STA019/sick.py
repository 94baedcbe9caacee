"""An LSTM whose first state is drawn in every pass, in evaluation as well."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject

CHECK = True
PLANTED = {"site": "lstm", "phase": "forward", "op": "randn"}


class Forecast(nn.Module):
    """The next number of a series."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 24, batch_first=True), nn.Linear(24, 1)

    def start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.randn(1, len(x), 24)  # planted
        return h.to(x.device), torch.randn(1, len(x), 24).to(x.device)

    def forward(self, x: Tensor) -> Tensor:
        read, _ = self.lstm(x, self.start(x))
        found: Tensor = self.head(read[:, -1])[:, 0]
        return found


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch["x"]), batch["y"])


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, 2, generator=chance)
    return Subject(
        Forecast(),
        [{"x": part, "y": part[:, -1, 0] - 0.5 * part[:, -2, 1]} for part in x.split(20)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        predict=lambda model, batch: model(batch["x"]),
    )
