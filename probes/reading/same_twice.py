"""Weights that read one key twice in one pass, and meet what they made of it with itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from probes.experiment import Experiment, attempted, copied, with_leaf
from probes.finding import ExperimentError
from probes.modules import every_module
from probes.raised import own_frame, place_in
from probes.reading.rows import looked
from probes.replay import Snapshot, replay
from probes.subject import Batch
from probes.vary import vary

FEW = 3  # ids beside the commonest one, below which a key is a mark
MARGIN = 1e-6  # of a difference that is one and the same everywhere, over the largest number
Line = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Twice:
    """A key that is read twice, by whose weights, where the second time, and what meets then."""

    key: str
    site: str
    source: str | None
    op: str
    meets: str | None


@dataclass(frozen=True, slots=True)
class _Read:
    """What weights were given that needs no gradient, in which lines; the how manieth read."""

    weights: tuple[int, ...]
    data: tuple[Tensor, ...]
    lines: tuple[Line, ...]
    number: int


@dataclass(frozen=True, slots=True)
class _Met:
    """What an operator was given twice, the same from two computations.

    within: whether the model itself was at work.
    """

    op: str
    value: Tensor
    lines: tuple[Line, ...]
    within: bool


class _Twins(TorchDispatchMode):
    """While it is entered, finds equal reads of the same weights, and where equals meet.

    forward: of the model.
    """

    def __init__(self, forward: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.again: list[tuple[_Read, _Read]] = []
        self.met: list[_Met] = []
        self._code = getattr(forward, "__code__", None)
        self._reads: list[tuple[str, _Read]] = []
        self._of: dict[int, frozenset[int]] = {}  # by tensor: the reads that it comes of
        self._kept: list[Tensor] = []  # so that no other tensor is taken for one of them

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator has run."""
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.replace("::", ".")
        given = [each for each in tree_leaves(args) if isinstance(each, Tensor)]
        learned = [each for each in given if each.requires_grad]
        come = frozenset[int]().union(*(self._comes_of(each) for each in given))
        if learned and all(_is_weight(each) for each in learned):
            come |= self._read(name, given)
        elif learned:
            self._meet(name, learned)
        if come:
            made = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
            self._kept += made
            self._of |= {id(each): self._comes_of(each) | come for each in made}
        return out

    def _comes_of(self, tensor: Tensor) -> frozenset[int]:
        return self._of.get(id(tensor), frozenset())

    def _read(self, name: str, given: list[Tensor]) -> frozenset[int]:
        """Weights and numbers without a gradient are put together: the number of that."""
        data = tuple(each for each in given if not each.requires_grad and each.ndim)
        weights = tuple(each.data_ptr() for each in given if each.requires_grad)
        if not any(_is_varied(each) for each in data):
            return frozenset()
        read = _Read(weights, data, _lines()[0], len(self._reads))
        known = (one for op, one in self._reads if (op, one.weights) == (name, weights))
        first = next((each for each in known if _all_equal(each.data, data)), None)
        self._reads.append((name, read))
        if first is not None:
            self.again.append((first, read))
        return frozenset([read.number])

    def _meet(self, name: str, learned: list[Tensor]) -> None:
        for i, one in enumerate(learned):
            for two in learned[:i]:
                if self._are_apart(one, two) and _is_varied(one) and _is_same(name, one, two):
                    lines, codes = _lines()
                    self.met.append(_Met(name, one.detach().clone(), lines, self._code in codes))
                    return

    def _are_apart(self, one: Tensor, two: Tensor) -> bool:
        """Whether one comes of the first of two equal reads alone, and the other of the second."""
        left, right = self._comes_of(one), self._comes_of(two)
        numbers = [{first.number, second.number} for first, second in self.again]
        return any(len(n & left) == 1 == len(n & right) and n <= left | right for n in numbers)


def encoded_twice(experiment: Experiment, key: str, unread: Iterable[str]) -> Twice | None:
    """The key of the same kind that is read twice in place of this one, which nobody reads.

    The same weights read it twice, and what comes of both meets, both with a gradient. Where that
    is the same in training as well, nothing but a mistake is left; where something is drawn there,
    two passes may be meant, as in contrasts of one text with itself: then targets must be read, and
    the two must meet within the model.
    """
    layout = experiment.layout
    marks = {each.key for each in layout.labels} | {each.key for each in layout.masks}
    others = experiment.tensors.keys() - marks - {key} if key not in marks else set()
    twins = [each for each in sorted(others) if _is_alike(experiment, key, each)]
    with suppress(ExperimentError):
        if twins:
            seen = _watched(experiment, experiment.batch, training=False)
            if seen.again and seen.met and _is_meant_as_one(experiment, seen, unread):
                for twin in twins:
                    if _comes_of(experiment, seen, twin):
                        return _twice(experiment, seen, twin)
    return None


def _is_meant_as_one(experiment: Experiment, seen: _Twins, unread: Iterable[str]) -> bool:
    if _watched(experiment, experiment.batch, training=True).met:
        return True
    labels = {*experiment.targets, *(each.key for each in experiment.layout.labels)}
    return bool(labels - {*unread}) and any(each.within for each in seen.met)


def _comes_of(experiment: Experiment, seen: _Twins, twin: str) -> bool:
    """Whether what meets is other, and still the same twice, with other values in the key."""
    tensor = experiment.tensors[twin]
    other = vary(tensor, torch.ones_like(tensor, dtype=torch.bool))
    if other is None:
        return False
    after = _watched(experiment, with_leaf(experiment.batch, twin, other), training=False)
    alike = len(after.met) == len(seen.met) and len(after.again) == len(seen.again)
    own = seen.again[0][1].data, after.again[0][1].data if alike else ()
    if not alike or _all_equal(*own):
        return False  # it is another key that is read twice
    return not torch.equal(after.met[0].value, seen.met[0].value)


def _twice(experiment: Experiment, seen: _Twins, twin: str) -> Twice:
    first, second = seen.again[0]
    parted = (two for one, two in zip(first.lines, second.lines, strict=False) if one != two)
    line = next(parted, second.lines[-1] if second.lines else None)
    meeting = seen.met[0].lines
    return Twice(
        twin,
        _owner(experiment, second.weights),
        None if line is None else place_in(*line),
        seen.met[0].op,
        place_in(*meeting[-1]) if meeting else None,
    )


def _owner(experiment: Experiment, weights: tuple[int, ...]) -> str:
    """The module that holds the weights."""
    root = next(every_module(experiment.subject.model))[0]
    named = experiment.subject.model.named_parameters()
    name = next((name for name, value in named if value.data_ptr() in weights), "")
    return name.rpartition(".")[0] or root


def _watched(experiment: Experiment, batch: Batch, training: bool) -> _Twins:
    """A pass through the loss, from the state of now; raises ExperimentError where that raises."""
    subject, model = experiment.subject, experiment.subject.model
    twins = _Twins(inspect.unwrap(type(model).forward))

    def step() -> Tensor:
        with attempted("`Subject.loss`"):
            return subject.loss(model if training else model.eval(), copied(batch)).detach()

    replay(step, model, Snapshot.take(model), under=[twins])
    return twins


def _is_alike(experiment: Experiment, key: str, other: str) -> bool:
    """Whether two keys hold the same kind of thing, and not the same."""
    one, two = experiment.tensors[key], experiment.tensors[other]
    if one.dtype != two.dtype or one.ndim != two.ndim or one.dtype is torch.bool:
        return False
    if one.shape == two.shape and torch.equal(one, two):
        return False
    if one.is_floating_point():
        return one.ndim > 1 and one.shape == two.shape and _is_near(one, two)
    if one.ndim == 0 or one.shape[:-1] != two.shape[:-1] or (one.ndim == 1 and len(one) < 2):
        return False
    values = [_ids(experiment, each) for each in (key, other)]
    return all(_are_among(*each) for each in (values, values[::-1]))


def _is_near(one: Tensor, two: Tensor) -> bool:
    """Whether numbers are of one size: neither far apart nor of another spread."""
    centres = [float(each.double().mean()) for each in (one, two)]
    least, most = sorted(float(each.double().std()) for each in (one, two))
    return least > 0 and most < 2 * least and abs(centres[0] - centres[1]) < most


def _ids(experiment: Experiment, key: str) -> Tensor:
    """Those of the first batches, but for the commonest, which may be padding."""
    rows = [tensors[key].flatten() for tensors in looked(experiment) if key in tensors]
    ids = torch.cat(rows) if rows else experiment.tensors[key].flatten()
    return ids[ids != ids.mode().values] if ids.numel() else ids


def _are_among(ids: Tensor, others: Tensor) -> bool:
    """Whether they are several, and at least half of all stand among the others."""
    if len(ids.unique()) < FEW:
        return False
    return float(torch.isin(ids, others).float().mean()) >= 0.5


def _is_weight(tensor: Tensor) -> bool:
    """Whether it is a parameter, or a view of one."""
    base = tensor._base
    return tensor.is_leaf or (base is not None and base.is_leaf)


def _is_varied(tensor: Tensor) -> bool:
    """Whether samples differ."""
    return tensor.ndim > 0 and len(tensor) > 1 and not bool((tensor == tensor[:1]).all())


def _is_same(op: str, one: Tensor, two: Tensor) -> bool:
    """Whether two are equal, or one is the other turned, as in a product of all pairs.

    Of a difference: also where they are equal but for a margin.
    """
    if one.dtype != two.dtype or one.ndim != two.ndim:
        return False
    turned = two.mT if two.ndim > 1 else two
    if any(one.shape == each.shape and torch.equal(one, each) for each in (two, turned)):
        return True
    if op not in ("aten.sub", "aten.rsub") or one.shape != two.shape:
        return False
    apart, size = one - two, float(two.abs().max())
    return float(apart.max() - apart.min()) <= MARGIN * size


def _all_equal(some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> bool:
    same = len(some) == len(others)
    return same and all(
        one.shape == two.shape and torch.equal(one, two)
        for one, two in zip(some, others, strict=True)
    )


def _lines() -> tuple[tuple[Line, ...], set[Any]]:
    """The user's lines at work, the outermost first, and the code that they are of."""
    found = list(_frames())
    return tuple(line for line, _ in reversed(found)), {code for _, code in found}


def _frames() -> Iterator[tuple[Line, Any]]:
    frame = own_frame()
    while frame is not None:
        yield (frame.f_code.co_filename, frame.f_lineno), frame.f_code
        frame = own_frame(frame.f_back) if frame.f_back is not None else None
