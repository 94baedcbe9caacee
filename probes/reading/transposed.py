"""Maps of targets: whether they go with the image where they are, or with its transpose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from probes.batch import leaves
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.reading.rows import BATCHES
from probes.scoring.scored_maps import Key, ScoredMap, ScoredMaps
from probes.subject import Batch

CELLS = 16  # along a side, at most, that are looked at
PLACES = 200  # off the diagonal, at least, of samples left out
SAMPLES = 128
RIDGE = 0.01
ASKED = 3  # cells whose pixels are changed


@dataclass(frozen=True, slots=True)
class Transposed:
    """How much of a map of targets images tell, on samples left out.

    given, turned: by the looks of their own places, and by those of (column, row), as shares of the
    variance. count: of how many places off the diagonal.
    """

    image: str
    key: Key
    given: float
    turned: float
    count: int


def transposed(experiment: Experiment) -> Iterator[Transposed]:
    """What images of the first batches tell of each square map of targets, read either way."""
    images = [
        key
        for key, tensor in experiment.tensors.items()
        if tensor.ndim == 4 and tensor.is_floating_point() and key not in experiment.targets
    ]
    if not images:
        return
    targets, looks = _read(experiment, images)
    for key, wanted in targets.items():
        for image in images:
            told = _told(image, key, looks[image, wanted.shape[1]], wanted)
            if told is not None:
                yield told


def is_local(experiment: Experiment, found: Transposed) -> bool:
    """Whether pixels move the prediction of their own cell, and hardly that of its transpose."""
    before = _maps(experiment, experiment.batch)
    image = experiment.tensors[found.image]
    if before is None or found.key not in before:
        return False
    side = _side(before[found.key])
    for cell in _far(side):
        other = with_leaf(experiment.batch, found.image, _changed(image, cell, side))
        after = _maps(experiment, other)
        if after is None or found.key not in after:
            return False
        one, two = before[found.key].prediction, after[found.key].prediction
        moved = _cells((two - one).abs().sum(-1, keepdim=True), side).sum((0, 3))
        if not bool(moved[cell] > 4 * moved[cell[::-1]]):
            return False
    return True


def _far(side: int) -> list[tuple[int, int]]:
    """Some cells that lie far from their transposes."""
    cells = [(i, j) for i in range(side) for j in range(side)]
    return sorted(cells, key=lambda cell: (-abs(cell[0] - cell[1]), cell))[:ASKED]


def _changed(image: Tensor, cell: tuple[int, int], side: int) -> Tensor:
    """Images with other pixels in a cell: those of the next sample, and brighter."""
    row, column = (
        slice(i * n // side, -(-(i + 1) * n // side))
        for i, n in zip(cell, image.shape[2:], strict=True)
    )
    out = image.clone()
    out[..., row, column] = image.roll(1, 0)[..., row, column] + image.std()
    return out


def _maps(experiment: Experiment, batch: Batch) -> Mapping[Key, ScoredMap] | None:
    mode = ScoredMaps(experiment.subject.model)
    try:
        experiment.evaluate(batch, under=[mode])
    except ExperimentError:
        return None
    return mode.found


def _read(
    experiment: Experiment, images: list[str]
) -> tuple[dict[Key, Tensor], dict[tuple[str, int], Tensor]]:
    """The targets of uses that each batch has, and what images look like in so many cells."""
    targets, looks = dict[Key, list[Tensor]](), defaultdict[tuple[str, int], list[Tensor]](list)
    samples = 0
    for count, batch in enumerate(islice(experiment.subject.batches, BATCHES)):
        maps, held = _maps(experiment, batch), leaves(batch)
        pixels = {k: held[k] for k in images if isinstance(held.get(k), Tensor)}
        if not maps or len(pixels) < len(images) or samples >= SAMPLES:
            break
        targets = {k: targets.get(k, []) for k in maps if count == 0 or k in targets}
        for key, own in targets.items():
            own.append(_cells(maps[key].targets, _side(maps[key])))
        for side in {_side(each) for each in maps.values()}:
            for image, values in pixels.items():
                looks[image, side].append(_looks(values.detach().cpu().float(), side))
        samples += len(pixels[images[0]])
    alike = {k: own for k, own in targets.items() if len({each.shape[1:] for each in own}) == 1}
    stacked = {k: torch.cat(own) for k, own in alike.items()}
    return stacked, {k: torch.cat(own) for k, own in looks.items()}


def _side(maps: ScoredMap) -> int:
    return min(CELLS, maps.targets.shape[1])


def _told(image: str, key: Key, looks: Tensor, targets: Tensor) -> Transposed | None:
    apart = ~torch.eye(targets.shape[1], dtype=torch.bool, device="cpu")
    count = len(targets[1::2]) * int(apart.sum())
    if len(looks) != len(targets) or count < PLACES or not bool(torch.isfinite(targets).all()):
        return None
    given = _share(looks[:, apart], targets[:, apart])
    other = _share(looks.transpose(1, 2)[:, apart], targets[:, apart])
    return None if given is None or other is None else Transposed(image, key, given, other, count)


def _looks(pixels: Tensor, side: int) -> Tensor:
    """(sample, row, column, number) means of each cell and those around it, and its own spread."""
    mean = F.adaptive_avg_pool2d(pixels, side)
    spread = (F.adaptive_avg_pool2d(pixels**2, side) - mean**2).clamp_min(0).sqrt()
    around = F.unfold(F.pad(mean, (1, 1, 1, 1), mode="replicate"), 3).unflatten(-1, (side, side))
    return torch.cat([around, spread], 1).movedim(1, -1)


def _cells(values: Tensor, side: int) -> Tensor:
    """(sample, row, column, number) of fewer rows and columns."""
    return F.adaptive_avg_pool2d(values.movedim(-1, 1), side).movedim(1, -1)


def _share(looks: Tensor, wanted: Tensor) -> float | None:
    """Of the variance of targets that a linear fit to every other sample tells in the rest.

    looks, wanted: (sample, place, number). What is the same at a place in all samples is left out.
    """
    looks, wanted = looks.double(), wanted.double()
    looks = looks - looks.mean(0)
    looks = looks / looks.std((0, 1)).clamp_min(1e-6)
    wanted = wanted - wanted.mean(0)
    fit, goal = looks[::2].flatten(0, 1), wanted[::2].flatten(0, 1)
    held, asked = looks[1::2].flatten(0, 1), wanted[1::2].flatten(0, 1)
    ridge = RIDGE * len(fit) * torch.eye(fit.shape[1], dtype=torch.double, device="cpu")
    left = asked - held @ torch.linalg.solve(fit.T @ fit + ridge, fit.T @ goal)
    whole = float((asked**2).sum())
    return 1 - float((left**2).sum()) / whole if whole > 0 else None
