"""Whether labels go with inputs in another order than that in which they stand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.guess import LENGTH
from probes.reading.in_order import COUNTS, Ordered, in_order, whole_data
from probes.reading.orders import Order, orders
from probes.reading.rows import is_read
from probes.seeding import kept_random_state

LEAST = 40  # samples
DRAWN = 400  # orders by chance
SURE = 6.0  # deviations from chance: by far more than as many orders as are tried may reach
CHANCE = 3.0  # deviations, at most, of labels as they stand
GAIN = 0.3  # of what lies between chance and every label told
LEFT = 0.5  # of that gain, at most, that the same labels moved on by some places have
KINDS = 0.25  # of the samples: whole numbers of more kinds are no classes


@dataclass(frozen=True, slots=True)
class OtherOrder:
    """Labels that are told by the most similar sample in an order, and not as they stand.

    share, given, chance: of classes the share that is told; of values the correlation of ranks.
    """

    label: str
    key: str
    order: Order
    count: int
    classes: bool
    share: float
    given: float
    chance: float


def other_order(experiment: Experiment, label: str) -> OtherOrder | None:
    """The order in which labels are told best. Raises ExperimentError where data are too many.

    Looked at are what is trained on, what is evaluated, and both one after the other.
    """
    found = []
    with kept_random_state():
        wholes = list(_wholes(experiment, label))
    for ordered in wholes:
        if len(ordered) < LEAST:
            continue
        best = _best(ordered, label)
        if best is None:
            return None  # as they stand they are told, or nothing can be known of them
        found += best
    found.sort(key=lambda each: (each.share - each.chance) * each.count**0.5, reverse=True)
    return next((each for each in found if is_read(experiment, each.key)), None)


def _wholes(experiment: Experiment, label: str) -> Iterator[Ordered]:
    subject = experiment.subject
    keys = [
        key
        for key, tensor in experiment.tensors.items()
        if key not in experiment.targets
        and tensor.dtype is not torch.bool
        and not tensor.is_complex()
        and not LENGTH.search(key)
    ]
    trained = in_order(subject.batches, label, keys)
    yield trained
    data = whole_data(subject.batches)
    if subject.eval_batches is None or (
        data is not None and whole_data(subject.eval_batches) is data
    ):
        return
    with suppress(ExperimentError):
        held = in_order(subject.eval_batches, label, keys)
        yield held
        yield trained + held


def _best(ordered: Ordered, label: str) -> list[OtherOrder] | None:
    """Of every look, the order that tells most; None where a look tells labels as they stand."""
    labels, classes = _numbers(ordered.labels)
    found = []
    for (key, how), look in ordered.looks.items():
        tried = list(orders(len(ordered), ordered.batch, key in ordered.image and classes))
        by = torch.stack([labels, *[labels[each.place] for each in tried]])
        nearest = _nearest(look if how == COUNTS else _scaled(look))
        chance, deviation, most = _by_chance(labels, nearest, classes)
        if not deviation > 0:
            continue
        told = _told(by, nearest, classes)
        given = float(told[0])
        if given - chance > CHANCE * deviation:
            return None
        for each, share, moved in zip(tried, told[1:].tolist(), by[1:], strict=True):
            gain = share - chance
            if share <= most or gain < SURE * deviation or gain < GAIN * (1 - chance):
                continue
            if _moved_on(moved, nearest, classes) - chance > LEFT * gain:
                continue
            found.append(OtherOrder(label, key, each, len(ordered), classes, share, given, chance))
    return found


def _numbers(labels: Tensor) -> tuple[Tensor, bool]:
    """Classes, or the ranks of values with a mean of 0 and a deviation of 1; whether classes."""
    values = labels.double()
    kinds = values.unique()
    classes = bool((kinds == kinds.round()).all()) and len(kinds) <= max(2, KINDS * len(values))
    if classes:
        return values, True
    ranks = values.argsort(stable=True).argsort().double()
    return (ranks - ranks.mean()) / ranks.std(correction=0), False


def _scaled(look: Tensor) -> Tensor:
    """Each number by how much it differs among samples."""
    deviation = look.std(0)
    return (look - look.mean(0)) / deviation.clamp(min=1e-6 * float(deviation.max()) + 1e-12)


def _nearest(look: Tensor) -> Tensor:
    """(sample,) the other sample that is most alike."""
    return torch.cdist(look, look).fill_diagonal_(torch.inf).argmin(1)


def _told(labels: Tensor, nearest: Tensor, classes: bool) -> Tensor:
    """(order,) the share of labels (order, sample) that are the nearest's; or how both go."""
    other = labels[:, nearest]
    return ((labels == other).double() if classes else labels * other).mean(1)


def _by_chance(labels: Tensor, nearest: Tensor, classes: bool) -> tuple[float, float, float]:
    """Mean, deviation and largest of what labels in any order come to."""
    chance = torch.Generator().manual_seed(0)
    by = torch.stack(
        [labels[torch.randperm(len(labels), generator=chance, device="cpu")] for _ in range(DRAWN)]
    )
    told = _told(by, nearest, classes)
    return float(told.mean()), float(told.std()), float(told.max())


def _moved_on(labels: Tensor, nearest: Tensor, classes: bool) -> float:
    """The most that the same labels tell a few places on, or many.

    Where neighbours are alike and have the same labels, that is as much.
    """
    steps = {2, 3, 5, *[len(labels) * k // 11 for k in range(1, 11)]}
    by = torch.stack([labels.roll(step) for step in sorted(steps)])
    return float(_told(by, nearest, classes).max())
