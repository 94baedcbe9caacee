"""Numbers of the samples along another axis, which fit since the batch is as large as it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

SIZE = 8
Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


class Denoiser(nn.Module):
    """What was added to pictures, with a level of noise drawn for each of them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.net = shape, nn.Conv2d(2, 2, 3, padding=1)
        self.register_buffer("left", torch.linspace(0.9, 0.1, 50))

    def forward(self, x: Tensor) -> Tensor:
        level = self.left[torch.randint(0, 50, (len(x),))].view(self.shape)
        noise = torch.randn_like(x)
        mixed = level.sqrt() * x + (1 - level).sqrt() * noise
        return F.mse_loss(self.net(mixed), noise)


def drawn(model: nn.Module, batch: Batch) -> Tensor:
    loss: Tensor = model(batch["x"])
    return loss


class OfRows(Denoiser):
    """The same of signals as long as there are of them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.net = nn.Sequential(nn.Linear(SIZE, 16), nn.SiLU(), nn.Linear(16, SIZE))


class Scores(nn.Module):
    """A score of each class."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(SIZE, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores


def weighed(model: nn.Module, batch: Batch) -> Tensor:
    """A weight a class, in each batch."""
    return ((model(batch["x"]) - batch["x"]).square() * batch["weight"]).mean()


def by_degree(model: nn.Module, batch: Batch) -> Tensor:
    """A graph of the features, in each batch."""
    degree = batch["graph"].sum(1) * torch.rand(SIZE)[: len(batch["graph"])]
    return ((model(batch["x"]) - batch["x"]).square() / (1 + degree)).mean()


def by_neighbours(model: nn.Module, batch: Batch) -> Tensor:
    """A graph of the samples, in each batch, of which an edge's weight is drawn anew."""
    graph = batch["weights"] * torch.rand(len(batch["weights"]))
    return (graph @ model(batch["x"]) - batch["x"]).square().mean()


def by_place(model: nn.Module, batch: Batch) -> Tensor:
    """A number that is drawn for each place, of which there are as many."""
    return (model(batch["x"]) * torch.rand(SIZE) - batch["x"]).square().mean()


def of_a_size(model: nn.Module, batch: Batch) -> Tensor:
    """It knows how large its batches are."""
    return (model(batch["x"]).view(SIZE, 2, -1) - torch.rand(SIZE, 1, 1)).square().mean()


def pairs(model: nn.Module, batch: Batch) -> Tensor:
    """All pairs of samples, and a number that is drawn for each second one."""
    near = model(batch["x"]) @ model(batch["x"]).T
    return (near - torch.rand(len(near))).square().mean()


def said(model: nn.Module, batch: Batch, loss: Loss) -> list[Finding]:
    seed_everything(0)
    subject = Subject(model, [batch], loss, lambda m: torch.optim.Adam(m.parameters()))
    return list(check(subject, chosen(["WIR009"])).findings)


@pytest.mark.parametrize(("shape", "axis"), [((-1,), 3), ((-1, 1), 2)])
def test_a_level_a_sample_along_the_pictures_is_told(shape: tuple[int, ...], axis: int) -> None:
    [found] = said(Denoiser(shape), {"x": torch.randn(SIZE, 2, SIZE, SIZE)}, drawn)
    assert f"place i on axis {axis} of every sample meets sample i's number" in found.message
    assert "with 7, (7," in found.message
    assert (found.op, found.source is not None) == ("mul", True)


def test_a_level_a_sample_on_the_axis_of_samples_is_well() -> None:
    assert said(Denoiser((-1, 1, 1, 1)), {"x": torch.randn(SIZE, 2, SIZE, SIZE)}, drawn) == []


@pytest.mark.parametrize("labelled", [False, True])
def test_a_level_a_sample_along_signals_is_told(labelled: bool) -> None:
    batch = {"x": torch.randn(SIZE, SIZE)} | ({"y": torch.arange(SIZE)} if labelled else {})
    assert said(OfRows((-1, 1)), batch, drawn) == []
    [found] = said(OfRows((-1,)), batch, drawn)
    assert f"{(SIZE - 1,)} and {(SIZE - 1, SIZE)} do not" in found.message


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [weighed, by_degree, by_neighbours, by_place, of_a_size, pairs])
def test_what_is_no_number_a_sample_is_well(loss: Loss, weighted: bool) -> None:
    graph = torch.rand(SIZE, SIZE)
    batch = {
        "x": torch.randn(SIZE, SIZE),
        "weight": torch.ones(SIZE),
        "graph": graph if weighted else (graph < 0.5).float(),
        "weights": graph,
    }
    used = {
        weighed: ["x", "weight"],
        by_degree: ["x", "graph"],
        by_neighbours: ["x", "weights"],
    }.get(loss, ["x"])
    assert said(Scores(), {key: batch[key] for key in used}, loss) == []
