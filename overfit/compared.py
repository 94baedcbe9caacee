"""What an accuracy compares with what, and whether one is the other on another scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from overfit.heads import Head, Heads
from probes.batch import leaves
from probes.raised import source_here
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

COMPARES = ("eq", "ne", "sub", "rsub", "isclose")
FEW = 50  # comparisons that are followed
Scale = tuple[float | None, float | None]
Pair = tuple[list[Tensor], list[Tensor], str | None]
"""Two numbers of each place, batch by batch, and the line that compares them."""

LEAST = 4  # pairs that show a scale
NEARLY = 0.9  # of the whole numbers, that differ by the same
LINE = 0.995  # of the variance of one, that a line through the other tells
ORDERED = 5  # numbers whose order is no chance
SORTED = 0.99  # correlation of the ranks: of a few numbers, all are in order
ORDER = 0.9  # of the labels' variance, that numbers so near would tell of them
APART = 3.0  # times what is left around that line: how far the two are from each other


@dataclass(frozen=True, slots=True)
class OtherScale:
    """An accuracy compares numbers that are each other's but for their scale.

    key: the batch key that the labels are, None where they are made. times, plus: what the model's
    are of them; None of numbers in the same order that no straight line leads to. whole: whether
    both are whole numbers. source: the line that compares them.
    """

    head: str
    key: str | None
    times: float | None
    plus: float | None
    whole: bool
    count: int
    source: str | None

    @property
    def words(self) -> str:
        """What the model's is of the label."""
        what = f"`{self.key}`" if self.key else "the label"
        if self.times is None or self.plus is None:
            return f"in the order of {what}, along a curve, as its log would be"
        if self.times == 1:
            return f"{what} {'+' if self.plus > 0 else '-'} {abs(self.plus):.4g}"
        plus = f" {'+' if self.plus > 0 else '-'} {abs(self.plus):.3g}" if self.plus else ""
        return f"{self.times:.3g} x {what}{plus}"


def other_scales(
    subject: Subject, batches: Sequence[Batch], began: Mapping[str, Tensor]
) -> tuple[OtherScale, ...]:
    """The accuracies that compare one scale with another, each with the first such comparison.

    One of the two is the model's, and was another under the weights it began with; the other is
    not. In evaluation mode; the weights are as they were afterwards.
    """
    model, heads = subject.model, Heads(subject, batches)
    ended = {name: value.clone() for name, value in model.state_dict().items()}
    now = {name: _pairs(subject, batches, head) for name, head in heads.accuracies.items()}
    try:
        model.load_state_dict(dict(began))
        before = {name: _pairs(subject, batches, head) for name, head in heads.accuracies.items()}
    finally:
        model.load_state_dict(ended)
    found = (_of_head(name, now[name], before[name], leaves(batches[0])) for name in now)
    return tuple(each for each in found if each is not None)


def _pairs(subject: Subject, batches: Sequence[Batch], head: Head) -> list[Pair]:
    """What each comparison compares, over all batches; nothing where they make different ones."""
    runs = []
    for batch in batches:
        with undisturbed(subject.model), torch.no_grad(), _Compared() as compared:
            head(subject.model, batch)
        runs.append(compared.pairs)
    if len({len(each) for each in runs}) != 1:
        return []
    return [
        ([each.flatten() for each, _, _ in calls], [each.flatten() for _, each, _ in calls], line)
        for calls in zip(*runs, strict=True)
        for line in [calls[0][2]]
    ]


def _of_head(
    name: str, now: Sequence[Pair], before: Sequence[Pair], keys: Mapping[str, Any]
) -> OtherScale | None:
    if len(now) != len(before):
        return None
    for (one, other, source), (first, second, _) in zip(now, before, strict=True):
        still = [_same(one, first), _same(other, second)]
        if still[0] == still[1]:
            continue
        labels, given = (one, other) if still[0] else (other, one)
        scale = _scale(torch.cat(given), torch.cat(labels))
        if scale is not None:
            whole = not any(each[0].is_floating_point() for each in (labels, given))
            count = sum(map(len, labels))
            return OtherScale(name, _key(labels[0], keys), *scale, whole, count, source)
    return None


def _same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _key(value: Tensor, keys: Mapping[str, Any]) -> str | None:
    """The batch key that holds these numbers."""
    for key, leaf in keys.items():
        same = isinstance(leaf, Tensor) and leaf.dtype == value.dtype
        if same and torch.equal(leaf.flatten(), value.flatten()):
            return key
    return None


def _scale(one: Tensor, label: Tensor) -> Scale | None:
    """What the one is of the label: times and plus; None where it is the label, or is not told."""
    whole = not one.is_floating_point() and not label.is_floating_point()
    one, label = one.double(), label.double()
    if whole:
        kept = (label >= 0) & (one >= 0)  # what is ignored is marked by a negative number
        one, label = one[kept], label[kept]
    if len(one) < LEAST or not bool(torch.isfinite(one).all() and torch.isfinite(label).all()):
        return None
    if len(one.unique()) < 2 or len(label.unique()) < 2:
        return None
    if whole:
        return _offset(one, label)
    return _line(one, label) or _curve(one, label)


def _offset(one: Tensor, label: Tensor) -> Scale | None:
    apart, often = Counter((one - label).tolist()).most_common(1)[0]
    return (1.0, float(apart)) if apart and often >= NEARLY * len(one) else None


def _curve(one: Tensor, label: Tensor) -> Scale | None:
    """Of numbers that are in the labels' order, and far from them."""
    if len(label.unique()) < ORDERED or len(one.unique()) < ORDERED:
        return None
    ranks = torch.stack([each.argsort().argsort().double() for each in (one, label)])
    if float(torch.corrcoef(ranks)[0, 1]) < SORTED:
        return None
    beside = (one - label).square().mean()
    return (None, None) if float(beside) > float(label.var()) * (1 - ORDER) else None


def _line(one: Tensor, label: Tensor) -> Scale | None:
    far, middle = label - label.mean(), one - one.mean()
    times = float((far @ middle) / (far @ far))
    around = middle - times * far
    if float(around @ around) > (1 - LINE) * float(middle @ middle) or times == 0:
        return None
    beside = (one - label).square().mean().sqrt()
    if float(beside) <= APART * float(around.square().mean().sqrt()):
        return None
    if float(beside) <= (1 - LINE) ** 0.5 * float(far.square().mean().sqrt()):
        return None
    return times, float(one.mean() - times * label.mean())


class _Compared(TorchFunctionMode):
    """While it is entered, keeps the pairs of tensors that are compared, and where."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[Tensor, Tensor, str | None]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run; what it compares is kept."""
        out = func(*args, **(kwargs or {}))
        given = [each for each in args if isinstance(each, Tensor)]
        name = getattr(func, "__name__", "").strip("_")
        if name in COMPARES and len(given) == 2 and len(self.pairs) < FEW:
            one, other = (each.detach() for each in given)
            if one.shape == other.shape and one.numel() and not one.is_complex():
                self.pairs.append((one.clone(), other.clone(), source_here()))
        return out
