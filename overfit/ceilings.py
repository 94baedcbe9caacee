"""The best that any model can reach on the samples at hand."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from overfit.alike import Alike
from overfit.floors import reached, smoothed
from overfit.slots import Slot
from overfit.targets import Piece, Target
from overfit.unpadded import unpadded
from probes.batch import leaves
from probes.layout import Layout
from probes.subject import Batch

CONFLICT = "same input, other labels"
PREFIX = "same prefix, other labels"
UNREACHABLE = "labels that no output can produce"
UNSCORED = "positions that are counted, but that the loss does not score"
EMPTY = "samples without any target"
SOFT = "labels that are shares of classes"
OF_LOGS = ("cross_entropy", "nll_loss")
HIDDEN = -1e4  # a score at or below it is a mask, and not an answer


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What no model can pass.

    head: whose it is, an accuracy or, where nothing is counted, a target. accuracy, loss: None
    where it says nothing of it. exact: whether the loss is the subject's own. samples: the
    places in the suite that it comes from. count: how many labels it costs. alike: whether inputs
    differ in what the model does not read; site, source, op: where it loses that, if it is known.
    unread: the keys of features, of those that nobody reads, which tell all these samples apart.
    """

    name: str
    head: str
    accuracy: float | None = None
    loss: float | None = None
    exact: bool = False
    samples: tuple[int, ...] = ()
    count: int = 0
    alike: bool = False
    site: str | None = None
    source: str | None = None
    unread: tuple[str, ...] = ()
    op: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As a suite's settings hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Ceiling:
        """The ceiling that `as_json` wrote."""
        known = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
        several = {name: tuple(row.get(name, ())) for name in ("samples", "unread")}
        return cls(**{**known, **several})


@dataclass(frozen=True, slots=True)
class Read:
    """What a model is given: the batches, the keys of its inputs, whether it sees gold labels.

    prefixes: the keys by which it sees them, each of which may begin with something of its own.
    alike: which samples it cannot tell apart. unread: keys of features that nobody reads. layout:
    the subject's, with which padding is told, that makes no two inputs differ.
    """

    batches: Sequence[Batch]
    keys: Sequence[str]
    prefixed: bool = False
    prefixes: Sequence[str] = ()
    alike: Alike = field(default_factory=Alike)
    unread: Sequence[str] = ()
    layout: Layout = field(default_factory=Layout)

    def beginnings(self, batch: int, target: Target) -> list[tuple[Hashable, ...]]:
        """What each sample of the batch shows before the first label that is scored."""
        found = leaves(self.batches[batch])
        count = len(target.pieces[batch].labels)
        rows: list[tuple[Hashable, ...]] = [()] * count
        spans = [(target.key, target.shift), *((key, 1) for key in self.prefixes)]
        for key, length in spans:
            leaf = found.get(key or "")
            if self.prefixed and isinstance(leaf, Tensor) and leaf.ndim == 2 and length > 0:
                rows = [(*a, *b) for a, b in zip(rows, leaf[:, :length].tolist(), strict=True)]
        return rows

    def inputs(self, batch: int) -> list[bytes]:
        """What each sample of the batch gives the model, to the bit, without its padding."""
        return self._rows(batch, self.keys)

    def beside(self, batch: int) -> list[bytes]:
        """What each sample of the batch holds in the keys of features that nobody reads."""
        return self._rows(batch, self.unread)

    def _rows(self, batch: int, keys: Sequence[str]) -> list[bytes]:
        found = leaves(self.batches[batch])
        tensors = {key: found[key] for key in keys if isinstance(found.get(key), Tensor)}
        count = len(next(iter(tensors.values()), ()))
        spans = unpadded(self.batches[batch], self.layout)
        rows = [{key: tensor[i] for key, tensor in tensors.items()} for i in range(count)]
        for i, row in enumerate(rows):
            row |= {key: row[key][cut[i]] for key, cut in spans.items() if key in row}
        return [b"|".join(map(_bytes, row.values())) for row in rows]

    @property
    def told_apart(self) -> bool:
        """Whether the inputs could name a sample, other than one number beside a gold prefix.

        Many texts are of one class, and each goes on in its own way.
        """
        return any(
            not self.prefixed or leaf.numel() > len(leaf)
            for batch in self.batches
            for key, leaf in leaves(batch).items()
            if key in self.keys and isinstance(leaf, Tensor) and leaf.ndim
        )

    def looks(self, batch: int) -> list[bytes]:
        """The same, each as the first sample that the model cannot tell it from."""
        rows = self.inputs(batch)
        for i in range(len(rows)):
            if (first := self.alike.firsts.get((batch, i))) is not None:
                rows[i] = self.inputs(first[0])[first[1]]
        return rows


def _bytes(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous()
    return str(tuple(plain.shape)).encode() + plain.flatten().view(torch.uint8).numpy().tobytes()


def ceilings(
    targets: Sequence[Target],
    counted: Sequence[Slot],
    unknown: Mapping[str, float],
    read: Read,
) -> tuple[Ceiling, ...]:
    """Those below a perfect score.

    unknown: how much accuracies count of which it is not known what they count.
    """
    found: list[Ceiling] = []
    for target in targets:
        heads = [slot for slot in counted if slot.target is target]
        found += _softness(target)
        found += _conflicts(target, heads, read)
        found += _unreachable(target, heads)
        found += _uncounted(target, unknown)
    return tuple(found)


def _softness(target: Target) -> Iterator[Ceiling]:
    """The loss of labels that are smoothed or shares: their own entropy."""
    if target.weighted or not target.count:
        return
    if target.kind == "shares":
        labels = target.kept.double()
        loss = float(-torch.special.xlogy(labels, labels).sum(-1).mean())
    elif target.smoothing and target.classes:
        shares = smoothed(torch.ones(1, dtype=torch.double, device="cpu"), target)
        loss = float(-torch.special.xlogy(shares, shares).sum())
    else:
        return
    if loss > 1e-6:
        yield Ceiling(SOFT, target.name, None, loss, target.whole, count=target.count)


@dataclass
class _Context:
    """What followed the same input, and in which samples."""

    labels: Counter[Hashable] = field(default_factory=Counter)
    values: list[float] = field(default_factory=list)
    samples: set[int] = field(default_factory=set)
    inputs: set[bytes] = field(default_factory=set)
    beside: set[bytes] = field(default_factory=set)

    @property
    def cost(self) -> int:
        """How many of its labels one answer gets wrong."""
        return sum(self.labels.values()) - max(self.labels.values(), default=0)


def _conflicts(target: Target, heads: Sequence[Slot], read: Read) -> Iterator[Ceiling]:
    if not all(each.by_sample for each in target.pieces) or target.kind == "shares":
        return
    if not read.keys and not read.prefixed:
        return
    name = CONFLICT if read.told_apart else PREFIX
    places = [(slot.head, slot.places) for slot in heads]
    alone = [(target.name, tuple(each.counted for each in target.pieces))]
    for head, mine in places or alone:
        contexts = _contexts(target, mine, read)
        odd = [each for each in contexts if len(each.labels) > 1]
        if not odd:
            continue
        samples = tuple(sorted(set().union(*(each.samples for each in odd))))
        apart = any(len(each.inputs) > 1 for each in odd)
        lost = read.alike.lost if apart else None
        told = all(len(each.beside) == len(each.samples) for each in odd)
        unread = tuple(read.unread) if told and not apart else ()
        place = (lost.site, lost.source, unread, lost.op) if lost else (None, None, unread)
        known_place = (apart, *place)
        accuracy, loss = reached(each.labels for each in contexts)
        if target.kind == "value":
            least = _within(contexts, target)
            yield Ceiling(name, head, None, least, target.whole, samples, len(odd), *known_place)
            continue
        cost = sum(each.cost for each in odd)
        known = None if target.weighted or target.smoothing else loss
        whole = target.whole and len(places or alone) == 1
        best = accuracy if places else None
        yield Ceiling(name, head, best, known, whole, samples, cost, *known_place)


def _contexts(target: Target, mine: Sequence[Tensor], read: Read) -> list[_Context]:
    seen: dict[Hashable, _Context] = defaultdict(_Context)
    first = 0
    for number, (piece, places) in enumerate(zip(target.pieces, mine, strict=True)):
        count = len(piece.labels)
        inputs = read.inputs(number) or [b""] * count
        looks, beside = read.looks(number) or inputs, read.beside(number) or [b""] * count
        begun = read.beginnings(number, target)
        for sample in range(count):
            for at, label in _labels(piece, places, sample, read.prefixed):
                context = seen[looks[sample], begun[sample], at]
                context.inputs.add(inputs[sample])
                context.beside.add(beside[sample])
                context.labels[label] += 1
                context.samples.add(first + sample)
        first += count
    return list(seen.values())


def _labels(
    piece: Piece, places: Tensor, sample: int, prefixed: bool
) -> Iterator[tuple[Hashable, Hashable]]:
    """Each label of a sample that counts, with its place, or with the labels before it."""
    wanted, there = piece.labels[sample].flatten().tolist(), places[sample].flatten().tolist()
    shown = piece.counted[sample].flatten().tolist()
    before: tuple[Hashable, ...] = ()
    for at, (label, counts, known) in enumerate(zip(wanted, there, shown, strict=True)):
        if counts:
            yield (before if prefixed else at), label
        if known and prefixed:
            before = (*before, label)


def _within(contexts: Sequence[_Context], target: Target) -> float | None:
    """The mean square around the mean of each context, or the mean distance from its median."""
    if target.loss not in (None, "mse_loss", "l1_loss"):
        return None
    total, count = 0.0, 0
    for each in contexts:
        values = torch.tensor(
            [v for v, n in each.labels.items() for _ in range(n)], device="cpu"
        ).double()
        middle = values.median() if target.loss == "l1_loss" else values.mean()
        off = (values - middle).abs() if target.loss == "l1_loss" else (values - middle).square()
        total, count = total + float(off.sum()), count + len(values)
    return total / max(1, count)


def _unreachable(target: Target, heads: Sequence[Slot]) -> Iterator[Ceiling]:
    """Labels beyond the classes that the scores know, or whose score a mask holds down."""
    if target.kind != "class":
        return
    for slot in heads:
        lost, samples, first, costs = 0, set(), 0, 0.0
        for piece, mine in zip(target.pieces, slot.places, strict=True):
            if piece.scores is None:
                return
            out = mine & _cannot(piece)
            lost += int(out.sum())
            costs += _cost(piece, piece.counted & _cannot(piece))
            if piece.by_sample:
                rows = out.reshape(len(out), -1).any(1).nonzero().flatten().tolist()
                samples |= {first + row for row in rows}
            first += len(piece.labels)
        count = sum(int(each.sum()) for each in slot.places)
        if lost:
            share, least = (count - lost) / count, costs / target.count if target.count else None
            known = None if target.weighted or target.loss not in OF_LOGS else least
            places = tuple(sorted(samples))
            yield Ceiling(UNREACHABLE, slot.head, share, known, target.whole, places, lost)


def _cost(piece: Piece, out: Tensor) -> float:
    """The sum of the cross entropies of these labels; 0 of those that are no class."""
    assert piece.scores is not None
    inside = out & (piece.labels >= 0) & (piece.labels < piece.scores.shape[-1])
    rows, labels = piece.scores[inside].double(), piece.labels[inside].long()
    return float(torch.nn.functional.cross_entropy(rows, labels, reduction="sum"))


def _cannot(piece: Piece) -> Tensor:
    """True where the label is no class of the scores, or its score is a mask's."""
    assert piece.scores is not None
    classes = piece.scores.shape[-1]
    inside = (piece.labels >= 0) & (piece.labels < classes)
    at = piece.labels.clamp(0, classes - 1).long()[..., None]
    score = piece.scores.gather(-1, at)[..., 0]
    best = piece.scores.max(-1).values
    hidden = (score <= HIDDEN) & (best > HIDDEN / 2)
    return ~inside | (hidden if piece.hidden is None else hidden | piece.hidden)


def _uncounted(target: Target, unknown: Mapping[str, float]) -> Iterator[Ceiling]:
    """Of an accuracy that counts more places than the loss scores: those are never right."""
    kept, places = target.count, sum(each.labels.numel() for each in target.pieces)
    masked = [each.masked for each in target.pieces]
    shown = sum(int(each.sum()) for each in masked if each is not None)
    by_sample = all(each.by_sample for each in target.pieces)
    empty = [i for i, row in enumerate(_by_sample(target)) if not bool(row.any())]
    samples = sum(len(each.labels) for each in target.pieces)
    for head, count in unknown.items():
        if kept < count and count in (places, shown):
            name = UNREACHABLE if count == shown else UNSCORED
            cost = int(count) - kept
            yield Ceiling(name, head, kept / count, None, False, (), cost)
        elif by_sample and empty and count == samples:
            share = (samples - len(empty)) / samples
            yield Ceiling(EMPTY, head, share, None, False, tuple(empty), len(empty))


def _by_sample(target: Target) -> Iterator[Tensor]:
    for piece in target.pieces:
        if piece.by_sample:
            yield from piece.counted.reshape(len(piece.counted), -1)


def finite(value: float | None) -> bool:
    """Whether it is there and a number."""
    return value is not None and math.isfinite(value)
