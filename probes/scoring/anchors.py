"""Several outputs a cell of an image, laid out kind by kind where their labels go cell by cell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.reading.alive import alive
from probes.scoring.answers import Scores, lines_of
from probes.scoring.by_columns import FEWEST, LEAST, TOLD, Cells, layouts, looks_and_labels, share
from probes.vary import vary

SPOTS = 3  # cells that are changed, one after the other
NEARER = 1.5  # times as near as in the other layout that what moves must lie


@dataclass(frozen=True, slots=True)
class Anchors:
    """How labels lie; outputs lie the other way: `together`, those of a cell side by side."""

    cells: Cells


def anchors(experiment: Experiment, found: Scores, label: str) -> Anchors | None:
    """The labels' layout, where outputs have the other one.

    Cells of the image are changed: what moves lies around that cell in one layout, and is scattered
    in the other. Which layout labels have is told by what cells look like over the first batches.
    None where either is not clear.
    """
    shape = tuple(experiment.tensors[label].shape)
    same = all(each.outputs == (each.label,) for each in found.answers)
    if len(shape) != 2 or not found.answers or not same:
        return None
    for cells in layouts(experiment, shape[1]):
        if cells.each > 1 and cells.together and cells.each != cells.side**2:
            apart = replace(cells, together=False)
            laid = [_share(experiment, label, each) for each in (cells, apart)]
            if None in laid:
                return None
            for own, other, mine, others in (
                (cells, apart, laid[0], laid[1]),
                (apart, cells, laid[1], laid[0]),
            ):
                assert mine is not None
                assert others is not None
                told = mine > TOLD and mine > LEAST * others
                if told and _move_as(experiment, found, shape, other, own):
                    return Anchors(own)
    return None


def _share(experiment: Experiment, label: str, cells: Cells) -> float | None:
    """How much of what a cell looks like its labels tell; None of too few cells."""
    known = looks_and_labels(experiment, label, cells)
    if known is None or known[0][..., 0].numel() < FEWEST:
        return None
    seen, told = known
    return max(share(seen, each) for each in told.unbind(-1))


def _move_as(
    experiment: Experiment, found: Scores, shape: tuple[int, ...], cells: Cells, other: Cells
) -> bool:
    """Whether what moves with a cell lies around it in this layout, and not in the other."""
    before = lines_of(found.shown.tensor, shape)
    image = experiment.tensors[cells.key]
    size = image.shape[2] // cells.side
    for spot in torch.linspace(0, cells.side**2 - 1, SPOTS + 2, device="cpu").long()[1:-1].tolist():
        row, column = divmod(spot, cells.side)
        where = torch.zeros_like(image, dtype=torch.bool)
        where[:, :, row * size : (row + 1) * size, column * size : (column + 1) * size] = True
        varied = vary(image, where)
        if varied is None or before is None:
            return False
        batch = with_leaf(experiment.batch, cells.key, varied)
        shown = alive(experiment, batch, picks=False).shown
        after = lines_of(shown[found.index].tensor, shape) if len(shown) > found.index else None
        if after is None or after.shape != before.shape:
            return False
        moved = (after - before).detach().abs().sum(-1)
        if not NEARER * _distance(cells.grid(moved), row, column) <= _distance(
            other.grid(moved), row, column
        ):
            return False
    return True


def _distance(grid: Tensor, row: int, column: int) -> float:
    """How many cells off what moves lies on average, of (sample, row, column, which)."""
    moved = grid.double().sum((0, 3)).cpu()
    places = torch.arange(len(moved), device="cpu")
    far = torch.maximum((places - row).abs()[:, None], (places - column).abs()[None])
    return float((moved * far).sum() / moved.sum()) if bool(moved.any()) else float("nan")
