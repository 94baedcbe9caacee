"""Images that are padded on the right and below, as a mask beside them says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from probes.experiment import Experiment
from probes.masking.image_mask import image_masks


@dataclass(frozen=True)
class Rectangle:
    """A mask of (sample, row, column), and what it lets see, whichever way it is written."""

    key: str
    keep: Tensor

    def parts(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
        """(sample, place) what is visible, and what is hidden, of a value by cell or by patch.

        The value's places may be its first axes after the samples, flattened or not; of a patch
        that is cut both are false. None where the value has no such places.
        """
        rows, columns = self.keep.shape[1:]
        for by in range(1, min(rows, columns) + 1):
            if rows % by or columns % by:
                continue
            down, across = rows // by, columns // by
            flat = len(shape) == 3 and shape[1] == down * across
            if flat or (len(shape) == 4 and shape[1:3] == (down, across)):
                share = F.avg_pool2d(self.keep.float()[:, None], by).flatten(1)
                return share == 1, share == 0
        return None


def rectangles(experiment: Experiment) -> Iterator[Rectangle]:
    """Masks of images that show a corner of each, beside an image that is one value elsewhere."""
    for key, values in image_masks(experiment):
        for keep in (values, ~values):
            if _is_corner(keep) and any(
                _is_blank(tensor, keep) for tensor in experiment.tensors.values()
            ):
                yield Rectangle(key, keep)


def _is_corner(keep: Tensor) -> bool:
    down, across = keep.any(2), keep.any(1)
    corner = torch.equal(keep, down[:, :, None] & across[:, None, :])
    ends = bool((down[:, 1:] <= down[:, :-1]).all()) and bool(
        (across[:, 1:] <= across[:, :-1]).all()
    )
    return corner and ends and not bool(keep.all()) and bool(keep.flatten(1).any(1).all())


def _is_blank(tensor: Tensor, keep: Tensor) -> bool:
    """Whether an image of channels, first or last, is one value where nothing is to be seen."""
    if tensor.ndim != 4 or not tensor.is_floating_point() or len(tensor) != len(keep):
        return False
    for image in (tensor, tensor.movedim(-1, 1)):
        if image.shape[2:] == keep.shape[1:]:
            there = image.movedim(1, -1)[~keep]
            return bool((there == there.flatten()[0]).all()) and bool(image.any())
    return False
