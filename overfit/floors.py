"""What a predictor reaches on the samples at hand that does not read the input."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from overfit.slots import Slot
from overfit.targets import Target

LABELS = 200_000  # beyond it contexts are not counted
PREFIXES = (1, 2, 3)  # tokens
PRIOR = "label prior"
MEAN = "mean of the targets"
BLIND = "the model trained blind"


@dataclass(frozen=True, slots=True)
class Floor:
    """What is reached without the input.

    head: whose floor it is, an accuracy or, where nothing is counted, a target. accuracy, loss:
    None where it says nothing of it. exact: whether the loss is one of the subject's own.
    """

    name: str
    head: str
    accuracy: float | None = None
    loss: float | None = None
    exact: bool = False

    def as_json(self) -> dict[str, Any]:
        """As a suite's settings hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Floor:
        """The floor that `as_json` wrote."""
        return cls(**{name: row.get(name) for name in cls.__dataclass_fields__})  # type: ignore[arg-type]


def floors(
    targets: Sequence[Target],
    counted: Sequence[Slot],
    units: Mapping[str, Sequence[Tensor]],
) -> tuple[Floor, ...]:
    """Those of every target, and those of the accuracies that count its labels."""
    found: list[Floor] = []
    for target in targets:
        heads = [slot for slot in counted if slot.target is target]
        if not heads:
            found += _alone(target)
        for slot in heads:
            found += _prior(slot.head, target, slot.labels, slot.kind == "all")
            if target.in_order and target.count <= LABELS:
                found += _prefixes(slot, units.get(target.name, ()))
                found += _previous(slot)
    return tuple(found)


def _alone(target: Target) -> list[Floor]:
    return _prior(target.name, target, target.kept, True, accuracy=False)


def _prior(
    head: str, target: Target, labels: Tensor, whole: bool, accuracy: bool = True
) -> list[Floor]:
    """The best that one and the same answer for every place can be."""
    if not len(labels):
        return []
    exact = whole and target.whole
    if target.kind == "value":
        return [Floor(MEAN, head, None, _spread(target, labels), exact)]
    shares = _shares(target, labels)
    if target.kind == "binary":
        best = float(torch.maximum(shares, 1 - shares).mean())
        loss = _entropy(torch.stack([shares, 1 - shares], -1))
    else:
        best, loss = float(shares.max()), _entropy(smoothed(shares, target))
    known = None if target.weighted else loss
    return [Floor(PRIOR, head, best if accuracy else None, known, exact)]


def _shares(target: Target, labels: Tensor) -> Tensor:
    """Of each class; of yes for each column of labels that are yes or no."""
    if target.kind == "class":
        counts = torch.unique(labels, return_counts=True)[1]
        share: Tensor = counts.double() / len(labels)
        return share
    if target.kind == "shares":
        return labels.double().mean(0)
    columns = target.pieces[0].labels
    by_column = columns.ndim > 1 and all(bool(each.counted.all()) for each in target.pieces)
    laid = labels.reshape(-1, *columns.shape[1:]) if by_column else labels[:, None]
    return laid.double().mean(0)


def smoothed(shares: Tensor, target: Target) -> Tensor:
    """(class,) the shares after the loss has smoothed the labels."""
    classes = target.classes
    if not target.smoothing or classes is None:
        return shares
    wide = torch.zeros(classes, dtype=torch.double, device="cpu")
    wide[: len(shares)] = shares.cpu()
    mixed: Tensor = (1 - target.smoothing) * wide + target.smoothing / classes
    return mixed


def _entropy(shares: Tensor) -> float:
    """In nats, the mean over all but the last axis."""
    return max(0.0, float(-torch.special.xlogy(shares, shares).sum(-1).mean()))


def _spread(target: Target, labels: Tensor) -> float | None:
    """The loss of the mean of the targets, or of their median where errors count as they are."""
    first = target.pieces[0].labels
    whole = first.ndim > 1 and all(bool(each.counted.all()) for each in target.pieces)
    laid = labels.reshape(-1, *first.shape[1:]) if whole else labels
    values = laid.double()
    if target.loss in ("smooth_l1_loss", "huber_loss"):
        return None
    if target.loss == "l1_loss":
        return float((values - values.median(0).values).abs().mean())
    return float((values - values.mean(0)).square().mean())


def _prefixes(slot: Slot, units: Sequence[Tensor]) -> Iterator[Floor]:
    """From the labels before: the best that remembers what followed them in these samples."""
    for length in PREFIXES:
        name = f"previous {length} gold tokens" if length > 1 else "previous gold token"
        yield _from_context(name, slot, [piece.labels for piece in slot.target.pieces], length)
        if units and slot.kind == "rest":
            merged = [
                piece.labels.masked_fill(places, -1)
                for piece, places in zip(slot.target.pieces, units, strict=True)
            ]
            yield _from_context(f"{name}, units as one class", slot, merged, length)


def _from_context(name: str, slot: Slot, read: Sequence[Tensor], length: int) -> Floor:
    seen: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for piece, counts, labels in zip(slot.target.pieces, slot.places, read, strict=True):
        for row, mine, there, gold in zip(
            _rows(labels), _rows(counts), _rows(piece.counted), _rows(piece.labels), strict=True
        ):
            before = (-2,) * length
            for token, is_mine, is_there, wanted in zip(row, mine, there, gold, strict=True):
                if is_mine:
                    seen[before][wanted] += 1
                if is_there:
                    before = (*before[1:], token)
    return Floor(name, slot.head, *reached(seen.values()))


def reached(contexts: Any) -> tuple[float, float]:
    """Accuracy and loss in nats of the best answer to each context, given what it counts."""
    rows = [list(each.values()) for each in contexts]
    total = sum(map(sum, rows)) or 1
    right = sum(max(row) for row in rows)
    loss = sum(-n * math.log(n / sum(row)) for row in rows for n in row)
    return right / total, max(0.0, loss / total)


def _rows(tensor: Tensor) -> list[list[int]]:
    rows: list[list[int]] = tensor.reshape(-1, tensor.shape[-1]).tolist()
    return rows


def _previous(slot: Slot) -> Iterator[Floor]:
    """From the label at the same position of the turn before."""
    if any(piece.labels.ndim != 3 for piece in slot.target.pieces):
        return
    hits = count = 0
    for piece, mine in zip(slot.target.pieces, slot.places, strict=True):
        same = (piece.labels[:, 1:] == piece.labels[:, :-1]) & piece.counted[:, :-1]
        hits += int((same & mine[:, 1:]).sum())
        count += int(mine.sum())
    if count and any(piece.labels.shape[1] > 1 for piece in slot.target.pieces):
        yield Floor("same position of the previous target", slot.head, hits / count)
