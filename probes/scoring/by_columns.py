"""Outputs of the cells of a square image, laid out by columns where the labels are by rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from probes.experiment import Experiment, with_leaf
from probes.reading.alive import alive
from probes.reading.rows import looked
from probes.scoring.answers import Scores, lines_of
from probes.vary import vary

FEWEST = 100  # cells, over the first batches, to tell it by
SMALLEST = 3  # cells along a side, below which rows and columns are hard to tell apart
NEAR = 0.5  # of the largest change, which a cell beside may have, as convolutions reach there
LEAST = 3.0  # times as much as at the mirrored cell
TOLD = 0.1  # of the variance of what a cell looks like, which its label tells


@dataclass(frozen=True, slots=True)
class Cells:
    """`side` times `side` cells, each with `each` labels that lie side by side, or far apart."""

    key: str
    side: int
    each: int
    together: bool

    def grid(self, flat: Tensor) -> Tensor:
        """(sample, label) as (sample, row, column, which), were it laid out by rows."""
        side, each = self.side, self.each
        if self.together:
            return flat.reshape(len(flat), side, side, each)
        return flat.reshape(len(flat), each, side, side).movedim(1, -1)


def by_columns(experiment: Experiment, found: Scores, label: str) -> Cells | None:
    """The cells, where outputs stand at the mirrored cell of the one that their label tells of.

    Two cells of the image are changed, far off the diagonal: outputs move at the mirrored cell,
    and not at their own. That labels are by rows is told by what cells look like over the first
    batches, which the label of the same cell tells, and the mirrored one's does not. None where
    the one or the other is not clear, as where labels are laid out by columns as well.
    """
    shape = tuple(experiment.tensors[label].shape)
    same = all(each.outputs == (each.label,) for each in found.answers)
    if len(shape) != 2 or not found.answers or not same:
        return None
    for cells in layouts(experiment, shape[1]):
        if _is_mirrored(experiment, found, shape, cells) and _is_by_rows(experiment, label, cells):
            return cells
    return None


def layouts(experiment: Experiment, count: int) -> Iterator[Cells]:
    """Every square grid of an image's cells that so many labels may lie in."""
    for key, tensor in experiment.tensors.items():
        image = tensor.ndim == 4 and tensor.is_floating_point() and key not in experiment.targets
        if not image or tensor.shape[2] != tensor.shape[3]:
            continue
        for side in range(SMALLEST, int(tensor.shape[2]) + 1):
            each, rest = divmod(count, side * side)
            if rest == 0 and each > 0 and tensor.shape[2] % side == 0:
                yield from (Cells(key, side, each, way) for way in (True, False)[:each])


def _is_mirrored(
    experiment: Experiment, found: Scores, shape: tuple[int, ...], cells: Cells
) -> bool:
    """Whether each of two cells that are changed moves the mirrored one, and not itself."""
    before = lines_of(found.shown.tensor, shape)
    image = experiment.tensors[cells.key]
    far, size = cells.side - 1, image.shape[2] // cells.side
    for row, column in ((0, far), (far - 1, 0)):
        where = torch.zeros_like(image, dtype=torch.bool)
        rows, columns = (slice(at * size, (at + 1) * size) for at in (row, column))
        where[:, :, rows, columns] = True
        other = vary(image, where)
        if other is None or before is None:
            return False
        batch = with_leaf(experiment.batch, cells.key, other)
        shown = alive(experiment, batch, picks=False).shown
        after = lines_of(shown[found.index].tensor, shape) if len(shown) > found.index else None
        if after is None or after.shape != before.shape:
            return False
        moved = cells.grid((after - before).detach().abs().sum(-1)).sum((0, 3))
        mirrored, own = float(moved[column, row]), float(moved[row, column])
        if mirrored < NEAR * float(moved.max()) or not mirrored > LEAST * own:
            return False
    return True


def _is_by_rows(experiment: Experiment, label: str, cells: Cells) -> bool:
    """Whether what a cell looks like is told by its label, and not by the mirrored one's."""
    known = looks_and_labels(experiment, label, cells)
    if known is None or known[0][..., 0].numel() < FEWEST:
        return False
    seen, told = known
    own = max(share(seen, each) for each in told.unbind(-1))
    mirrored = max(share(seen, each.transpose(1, 2)) for each in told.unbind(-1))
    return own > TOLD and own > LEAST * mirrored


def looks_and_labels(
    experiment: Experiment, label: str, cells: Cells
) -> tuple[Tensor, Tensor] | None:
    """Over the first batches: (sample, row, column, channel) of the image, (..., which) of labels.

    None where a batch holds others.
    """
    shapes = [experiment.tensors[key].shape[1:] for key in (cells.key, label)]
    looks, labels = [], []
    for batch in looked(experiment):
        image, values = batch.get(cells.key), batch.get(label)
        if image is None or values is None or [image.shape[1:], values.shape[1:]] != shapes:
            return None
        looks.append(F.adaptive_avg_pool2d(image.detach().double(), cells.side))
        labels.append(cells.grid(values))
    return torch.cat(looks).movedim(1, -1), torch.cat(labels)


def share(seen: Tensor, labels: Tensor) -> float:
    """The share of the variance of (sample, row, column, channel) that lies between labels."""
    flat, kinds = seen.flatten(0, 2), labels.flatten().unique(return_inverse=True)[1]
    sums = flat.new_zeros(int(kinds.max()) + 1, flat.shape[1]).index_add_(0, kinds, flat)
    means = sums / kinds.bincount()[:, None]
    whole = (flat - flat.mean(0)).square().sum()
    return float((means[kinds] - flat.mean(0)).square().sum() / whole) if whole > 0 else 0.0
