"""All samples of a subject in the order of its data: what their inputs look like, and labels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d
from torch.utils.data import DataLoader, IterableDataset, Subset

from probes.batch import Moved, leaves
from probes.experiment import attempted
from probes.finding import ExperimentError
from probes.subject import Batch

ROWS = 2048  # samples, at most
SECONDS = 5.0  # that they are read for
SIDE, WIDTH = 8, 1024  # numbers that are looked at along an axis, and in all
COUNTS = "counts"


@dataclass(frozen=True, slots=True)
class Ordered:
    """Samples in order. labels: (sample,); looks: how each looks, (sample, number) by key and name.

    image: the keys that hold an image a sample. batch: how many samples the first batch holds.
    """

    labels: Tensor
    looks: dict[tuple[str, str], Tensor]
    image: frozenset[str]
    batch: int

    def __len__(self) -> int:
        return len(self.labels)

    def __add__(self, other: Ordered) -> Ordered:
        """One after the other, of the looks that both have."""
        both = {
            name: torch.cat([look, other.looks[name]])
            for name, look in self.looks.items()
            if name in other.looks and other.looks[name].shape[1] == look.shape[1]
        }
        return Ordered(torch.cat([self.labels, other.labels]), both, self.image, self.batch)


def in_order(batches: Iterable[Batch], label: str, inputs: Iterable[str]) -> Ordered:
    """What the batches hold, one number a sample under the label; unshuffled, where they can be.

    Raises ExperimentError where there is too much of it, or its axes do not fit.
    """
    keys, parts, rows, began = list(inputs), list[Ordered](), 0, time.monotonic()
    for batch in _drawn(unshuffled(batches)):
        held = {k: v.detach().cpu() for k, v in leaves(batch).items() if isinstance(v, Tensor)}
        if label not in held or held[label].ndim == 0 or held[label].numel() != len(held[label]):
            raise ExperimentError(f"`{label}` is not one number a sample in every batch")
        parts.append(_ordered(held, held[label].flatten(), keys))
        rows += len(parts[-1])
        if rows > ROWS or time.monotonic() - began > SECONDS:
            raise ExperimentError(f"there are more than {ROWS} samples, or they take long to read")
    if not parts:
        raise ExperimentError("there are no batches")
    return _joined(parts)


def unshuffled(batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches of a loader in the order of its whole data set; any others as they come.

    Raises ExperimentError where the data set is too large.
    """
    while isinstance(batches, Moved):
        batches = batches.batches
    if not isinstance(batches, DataLoader) or isinstance(batches.dataset, IterableDataset):
        return batches
    data = whole_data(batches)
    asked_whole = batches.batch_size is None and batches.batch_sampler is None
    if not isinstance(data, Sized) or asked_whole:
        return batches
    if len(data) > ROWS:
        raise ExperimentError(f"there are more than {ROWS} samples")
    collate = batches.collate_fn
    loader: DataLoader[Batch] = DataLoader(data, batches.batch_size or 32, collate_fn=collate)  # type: ignore[arg-type]  # its length is known
    return loader


def _drawn(batches: Iterable[Batch]) -> Iterator[Batch]:
    with attempted("the data set, read in its own order,"):
        yield from batches


def whole_data(batches: object) -> object:
    """The data set that a loader draws from, of which it may be a subset; None of anything else."""
    while isinstance(batches, Moved):
        batches = batches.batches
    data = batches.dataset if isinstance(batches, DataLoader) else None
    while isinstance(data, Subset):
        data = data.dataset
    return data


def _ordered(held: dict[str, Tensor], labels: Tensor, keys: list[str]) -> Ordered:
    looks, image = dict[tuple[str, str], Tensor](), set[str]()
    for key in keys:
        value = held.get(key)
        if value is None or value.ndim == 0 or len(value) != len(labels) or not value.numel():
            continue
        looks |= {(key, name): look for name, look in _looks(value)}
        if value.ndim > 3:
            image.add(key)
    return Ordered(labels, looks, frozenset(image), len(labels))


def _joined(parts: list[Ordered]) -> Ordered:
    """All batches in a row, with the looks that all of them have in one width."""
    names = [
        name
        for name, look in parts[0].looks.items()
        if all(name in e.looks and e.looks[name].shape[1] == look.shape[1] for e in parts)
    ]
    looks = {name: torch.cat([each.looks[name] for each in parts]) for name in names}
    image = frozenset[str]().union(*[each.image for each in parts])
    labels = torch.cat([each.labels for each in parts])
    return Ordered(labels, looks, image, parts[0].batch)


def _looks(value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Ids by how often each comes; numbers by where they stand, and by what they are anywhere."""
    with suppress(RuntimeError):
        if value.ndim < 3 and not value.is_floating_point() and not value.is_complex():
            yield COUNTS, _counts(value.reshape(len(value), -1).long())
        value = torch.nan_to_num(value.float(), posinf=0, neginf=0)
        if value.ndim < 3:
            yield "places", _narrowed(value.reshape(len(value), -1))
            return
        if value.ndim == 3:  # (sample, time, feature) or (sample, channel, time)
            value = value[:, None]
        value = value.flatten(1, -3)
        yield "places", _narrowed(adaptive_avg_pool2d(value, SIDE).flatten(1))
        yield "values", torch.cat([value.mean((2, 3)), value.std((2, 3))], 1)


def _narrowed(rows: Tensor) -> Tensor:
    return adaptive_avg_pool1d(rows, WIDTH) if rows.shape[1] > WIDTH else rows


def _counts(ids: Tensor) -> Tensor:
    counts = torch.zeros(len(ids), WIDTH, device="cpu").scatter_add_(
        1, ids % WIDTH, torch.ones(ids.shape, dtype=torch.float, device="cpu")
    )
    return torch.nn.functional.normalize(counts.sqrt())
