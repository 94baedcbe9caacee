"""Both parts weigh as much."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from probes import Ratio, Subject

PLANTED = None


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 64), nn.ReLU())
        self.shape = nn.Linear(64, 3)
        self.colour = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        seen = self.body(x)
        return {"shape": self.shape(seen), "colour": self.colour(seen)}


def part(name: str) -> Callable[[nn.Module, dict[str, Tensor]], Tensor]:
    return lambda model, batch: nn.functional.cross_entropy(model(batch["x"])[name], batch[name])


def right(name: str) -> Callable[[nn.Module, dict[str, Tensor]], Ratio]:
    return lambda model, batch: Ratio(
        (model(batch["x"])[name].argmax(-1) == batch[name]).sum(), len(batch[name])
    )


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return part("shape")(model, batch) + part("colour")(model, batch)


def subject() -> Subject:
    chance = torch.Generator().manual_seed(0)
    batch = {
        "x": torch.randn(24, 8, generator=chance),
        "shape": torch.randint(0, 3, (24,), generator=chance),
        "colour": torch.randint(0, 4, (24,), generator=chance),
    }
    return Subject(
        Two(),
        [batch],
        loss,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.3),
        parts={name: part(name) for name in ("shape", "colour")},
        metrics={name: right(name) for name in ("shape", "colour")},
    )
