"""Maps that are read at points: whether images look like their labels there, or at (y, x)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.batch import leaves
from probes.experiment import LOSS, Experiment
from probes.finding import ExperimentError
from probes.raised import source_here
from probes.reading.alive import alive
from probes.reading.rows import BATCHES
from probes.running import names_of, running

ACROSS = 7  # pixels of the patches that are looked at
POINTS = 200  # at least
CLASSES = 20
RIDGE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Points (sample, row, column, 2) at which a map is read, as they were given."""

    points: Tensor
    corners: bool
    site: str
    line: str | None


@dataclass(frozen=True, slots=True)
class Swapped:
    """How many labels are told, on samples left out, by the images at points and at (y, x) of them.

    most: the share of the commonest label there. site: the module that reads a map.
    """

    image: str
    labels: str
    given: float
    turned: float
    most: float
    count: int
    site: str
    line: str | None


class _Grids(TorchFunctionMode):
    """While it is entered, keeps the grids that nothing learned leads to."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[_Grid] = []
        self._names = names_of(model)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result."""
        given = dict(kwargs or {})
        if func is F.grid_sample:
            names = ("input", "grid", "mode", "padding_mode", "align_corners")
            grid = (named := {**dict(zip(names, args, strict=False)), **given})["grid"]
            if grid.ndim == 4 and not grid.requires_grad:
                corners = bool(named.get("align_corners"))
                points, site = grid.detach().cpu().clone(), running(self._names) or LOSS
                self.found.append(_Grid(points, corners, site, source_here()))
        return func(*args, **given)


def swapped(experiment: Experiment) -> Iterator[Swapped]:
    """What the images of the first batches tell of labels by point, read either way."""
    wanted = [key for key in experiment.targets if not experiment.tensors[key].is_floating_point()]
    images = [key for key, tensor in experiment.tensors.items() if _is_image(experiment, tensor)]
    if not alive(experiment).sampled or not wanted or not images:
        return
    batches = list(_batches(experiment))
    for labels in wanted:
        for image in images:
            found = _told(image, labels, batches)
            if found is not None:
                yield found


def _is_image(experiment: Experiment, tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.is_floating_point() and len(tensor) == experiment.size


def _batches(experiment: Experiment) -> Iterator[tuple[dict[str, Tensor], _Grid]]:
    for batch in islice(experiment.subject.batches, BATCHES):
        mode = _Grids(experiment.subject.model)
        try:
            experiment.evaluate(batch, under=[mode])
        except ExperimentError:
            return
        if mode.found:
            tensors = {k: leaf for k, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}
            yield tensors, mode.found[0]


def _told(
    image: str, labels: str, batches: list[tuple[dict[str, Tensor], _Grid]]
) -> Swapped | None:
    rows, other, wanted = [], [], []
    for tensors, grid in batches:
        points, goal = grid.points.flatten(1, 2), tensors[labels].cpu()
        goal = goal[:, None] if goal.ndim == 1 else goal
        if goal.shape != points.shape[:2] or len(tensors[image]) != len(points):
            return None
        pixels = tensors[image].detach().cpu().float()
        rows.append(_patches(pixels, points, grid.corners))
        other.append(_patches(pixels, points.flip(-1), grid.corners))
        wanted.append(goal)
    if not wanted:
        return None
    y = torch.cat(wanted)
    if y.numel() < POINTS or int(y.min()) < 0 or not 1 < len(y.unique()) <= CLASSES:
        return None
    given, turned = (_share(torch.cat(each), y) for each in (rows, other))
    most = float(torch.bincount(y[1::2].flatten()).max()) / y[1::2].numel()
    first = batches[0][1]
    return Swapped(image, labels, given, turned, most, y[1::2].numel(), first.site, first.line)


def _patches(pixels: Tensor, points: Tensor, corners: bool) -> Tensor:
    """(sample, point, number) of the pixels around each point."""
    sides = torch.tensor([pixels.shape[3], pixels.shape[2]], dtype=torch.float32, device="cpu")
    along = torch.arange(ACROSS, device="cpu") - ACROSS // 2
    offsets = torch.stack(torch.meshgrid(along, along, indexing="xy"), -1).flatten(0, 1)
    steps = offsets * (2 / (sides - 1 if corners else sides))
    grid = points.float()[:, :, None] + steps  # (sample, point, offset, 2)
    found = F.grid_sample(pixels, grid, align_corners=corners)  # (sample, channel, point, offset)
    return found.transpose(1, 2).flatten(2)


def _share(rows: Tensor, wanted: Tensor) -> float:
    """Of labels that a linear fit to every other sample tells in the rest."""
    scaled = (rows - rows.mean((0, 1))) / rows.std((0, 1)).clamp_min(1e-6)
    design = F.pad(scaled, (0, 1), value=1.0).double()
    fit, held = design[::2].flatten(0, 1), design[1::2].flatten(0, 1)
    goal = F.one_hot(wanted[::2].flatten().long(), int(wanted.max()) + 1).double()
    ridge = RIDGE * len(fit) * torch.eye(fit.shape[1], dtype=torch.double, device="cpu")
    scores = held @ torch.linalg.solve(fit.T @ fit + ridge, fit.T @ goal)
    return float((scores.argmax(1) == wanted[1::2].flatten()).float().mean())
