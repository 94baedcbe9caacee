"""Modules that number the padding, and those that may give one vector at all visible places."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checks.places_of_padding import PlacesOfPadding
from probes.experiment import Experiment
from probes.finding import judge
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


class Waves(nn.Module):
    """(sample, row, column) truths, counted up along both axes."""

    def forward(self, counted: Tensor) -> Tensor:
        places = torch.stack([counted.float().cumsum(axis) for axis in (1, 2)], -1)
        return torch.cat([places.sin(), places.cos()], -1).flatten(1, 2)


class Boxes(nn.Module):
    def __init__(self, patch: int, turned: bool) -> None:
        super().__init__()
        self.stem, self.waves = nn.Conv2d(2, 4, patch, patch), Waves()
        self.read = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.out, self.patch, self.turned = nn.Linear(4, 2), patch, turned

    def forward(self, image: Tensor, padding: Tensor) -> Tensor:
        small = padding[:, :: self.patch, :: self.patch]
        hidden = self.stem(image).flatten(2).mT + self.waves(small if self.turned else ~small)
        hidden = self.read(hidden, src_key_padding_mask=small.flatten(1))
        corner: Tensor = self.out(hidden[:, 0])
        return corner


def judged(
    model: nn.Module, batch: Batch, loss: Callable[[nn.Module, Batch], Tensor]
) -> list[str | None]:
    seed_everything(0)
    subject = Subject(model, [batch], loss, lambda m: torch.optim.Adam(m.parameters()))
    return [f.site for f in judge([PlacesOfPadding()], Experiment.of(subject)).findings]


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("turned", [True, False])
def test_waves_over_the_padding_of_images_are_told(patch: int, turned: bool) -> None:
    chance = torch.Generator().manual_seed(0)
    high, wide = 2 * torch.randint(1, 4, (2, 6, 1), generator=chance)
    there = (torch.arange(8) < high)[:, :, None] & (torch.arange(8) < wide)[:, None]
    image = torch.randn(6, 2, 8, 8, generator=chance) * there[:, None]
    batch = {"image": image, "padding": ~there, "corner": torch.randn(6, 2, generator=chance)}

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.mse_loss(model(b["image"], b["padding"]), b["corner"])

    assert judged(Boxes(patch, turned), batch, loss) == (["waves"] if turned else [])


class Fill(nn.Module):
    """Gives what is to come, and nothing where it is known."""

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden * ~mask[..., None]


def test_what_fills_in_the_rest_of_a_series_gives_nothing_where_it_is_known() -> None:
    class Series(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out, self.fill = nn.GRU(2, 8, batch_first=True), nn.Linear(8, 2), Fill()

        def forward(self, b: Batch) -> Tensor:
            return b["known"] + self.fill(self.out(self.rnn(b["known"])[0]), b["mask"])

    chance = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 9, 2, generator=chance)
    mask = torch.arange(9) < torch.tensor([6, 5, 7, 4, 3, 6])[:, None]
    batch = {"known": whole * mask[..., None], "mask": mask, "whole": whole}
    assert judged(Series(), batch, lambda model, b: F.mse_loss(model(b), b["whole"])) == []
