"""Places whose label is the ignored one, and that a term of the loss counts all the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.layout import Labels
from probes.masking.hidden import Hidden
from probes.scoring.answers import SMALL, grad_with, keys, scores
from probes.scoring.placed import is_placed
from probes.vary import vary

MOVED = 1e-3  # of the gradient at ignored places: less does not count as changed


@dataclass(frozen=True)
class Counted:
    """Which places the loss looks at though their label is `ignore`.

    places: over the labels' axes. change: of the gradient there with other labels elsewhere, as a
    share of it.
    """

    ignore: int
    places: Tensor
    change: float


def counted(experiment: Experiment, labels: Labels) -> Counted | None:
    """The ignored places that the loss has a gradient at, which hangs on the labels elsewhere.

    A penalty of all outputs has one too, and asks for no label. Labels along one axis may be
    shifted: places count whose neighbours are ignored as well. Labels that are matched or aligned
    to outputs have no places there. Raises ExperimentError where no output has the labels' axes.
    """
    values = experiment.tensors[labels.key]
    if values.ndim < 2:
        return None
    found = scores(experiment, labels)
    ignore = _ignored(labels, values, found.grad.shape[-1])
    if ignore is None:
        return None
    alone, valid = _inner(values == ignore), (values != ignore) & (values >= 0)
    size = found.grad.abs().amax(-1)
    places = alone & (size > SMALL * size.max())
    other = vary(values, valid, values[valid]) if bool(places.any()) else None
    if other is None or torch.equal(other, values):
        return None
    after = grad_with(experiment, labels, {labels.key: other})
    if after is None:
        return None
    largest = float(found.grad[places].abs().max())
    change = float((after - found.grad)[places].abs().max()) / largest
    moved = change > MOVED and is_placed(experiment, labels)
    return Counted(ignore, places, change) if moved else None


def ignores(experiment: Experiment, each: Hidden) -> bool:
    """Whether what a mask hides are labels that the loss leaves out as they are."""
    labels = next((one for one in keys(experiment) if one.key == each.key), None)
    if labels is None or each.key not in experiment.targets:
        return False
    try:
        scored = scores(experiment, labels).scored
    except ExperimentError:
        return False
    keep = each.over(tuple(scored.shape))
    return keep is not None and not bool((scored & ~keep).any())


def _ignored(labels: Labels, values: Tensor, classes: int) -> int | None:
    """The id that is left out: the declared one, or one below all classes, or far beyond them."""
    if labels.ignore is not None and bool((values == labels.ignore).any()):
        return labels.ignore
    beyond = values[(values < 0) | (values > classes)].unique()
    return int(beyond) if len(beyond) == 1 else None


def _inner(ignored: Tensor) -> Tensor:
    """Of labels along one axis those whose neighbours are ignored too; of a map all."""
    if ignored.ndim > 2:
        return ignored
    inner = ignored.clone()
    inner[:, 1:] &= ignored[:, :-1]
    inner[:, :-1] &= ignored[:, 1:]
    return inner
