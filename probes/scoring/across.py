"""A number a sample, `(N,)`, that meets N features, so that each feature gets another sample's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, islice
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.batch import leaves, map_leaves, take
from probes.experiment import Experiment, attempted, copied
from probes.finding import ExperimentError
from probes.raised import source_here
from probes.replay import Snapshot, replay
from probes.subject import Batch

MOST = 50  # calls that are kept
LOOKED = 4  # batches, among which keys that are alike are no samples
DRAWS = ("rand", "randn", "rand_like", "randn_like", "normal", "randint", "randint_like")
SQUARES = 3  # keys of as many rows as columns, of each of which it is asked
NEAR = 1e-4  # of a value: as near are values of the same sample in another place of the batch


@dataclass(frozen=True, slots=True)
class Met:
    """A call that was given `(N,)` and `(N, ..., N)`."""

    op: str
    source: str | None
    vector: Tensor
    other: Tensor


@dataclass(frozen=True, slots=True)
class _Ran:
    """The calls of one run, and its loss; None where it raised."""

    met: Sequence[Met] = ()
    loss: Tensor | None = None


class _Meetings(TorchFunctionMode):
    """While it is entered, keeps the calls of these names that such a pair is given.

    What is drawn is one number throughout: with the samples in another order it is the same.
    """

    def __init__(self, ops: Sequence[str], size: int) -> None:
        super().__init__()
        self.ops, self.size = ops, size
        self.found: list[Met] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in self.ops and len(self.found) < MOST:
            self._keep(name.strip("_"), [each for each in args[:2] if isinstance(each, Tensor)])
        out = func(*args, **(kwargs or {}))
        if name in DRAWS and isinstance(out, Tensor) and out.numel():
            out = out.flatten()[0].expand_as(out).clone()
        return out

    def _keep(self, op: str, given: list[Tensor]) -> None:
        if len(given) < 2:
            return
        vector, other = sorted(given, key=lambda each: each.ndim)
        if vector.ndim != 1 or other.ndim < 2:
            return
        if len(vector) == len(other) == other.shape[-1] == self.size:
            kept = vector.detach().clone(), other.detach().clone()
            self.found.append(Met(op, source_here(), *kept))


def across(experiment: Experiment, ops: Sequence[str]) -> Met | None:
    """The first such call whose `(N,)` follows the order of the samples, which the features do not.

    With the batch in another order, what is one number a sample comes in that order, and the other
    operand comes in it along its first axis alone: its last one is of features. The loss is run in
    evaluation mode. A key that is the same in another batch may be no samples'. One of as many
    columns as rows may be of pairs of samples, as a graph's adjacency, or of features: where the
    batch with both in the new order gives the same loss, or with neither, it is, and what meets
    columns is meant to.
    """
    before = _run(experiment, ops, experiment.batch)
    if not before.met:
        return None
    order = [*range(1, experiment.size), 0]
    orders, found = list(_turned(experiment, order)), before.met
    for batch in orders:
        after = _run(experiment, ops, batch)
        across = [id(one) for one, two in _paired(before, after) if _is_across(one, two, order)]
        found = [each for each in found if id(each) in across]
    for whole in (False, True) if found else ():
        for after in _as_pairs(experiment, ops, before, orders, whole):
            meant = [id(one) for one, two in _paired(before, after) if _is_meant(one, two, order)]
            found = [each for each in found if id(each) not in meant]
    return next(iter(found), None)


def holds_pairs(experiment: Experiment) -> bool:
    """Whether the loss is the same where columns are in another order, as the samples are."""
    before = _run(experiment, (), experiment.batch)
    orders = list(_turned(experiment, [*range(1, experiment.size), 0]))
    return next(_as_pairs(experiment, (), before, orders), None) is not None


def holds_no_samples(experiment: Experiment) -> bool:
    """Whether the loss is the same where keys of as many rows as columns keep the old order.

    And is another where the other keys hold one sample throughout: those are read.
    """
    size, before = experiment.size, _run(experiment, (), experiment.batch)
    order, first = [*range(1, size), 0], take(experiment.batch, [0] * size, experiment.layout)
    copies = list(_of_pairs(experiment, first, order, True))
    for batch in _turned(experiment, order):
        for one, other in zip(_of_pairs(experiment, batch, order, True), copies, strict=True):
            same = [_is_alike(before, _run(experiment, (), each)) for each in (one, other)]
            if same == [True, False]:
                return True
    return False


def _as_pairs(
    experiment: Experiment,
    ops: Sequence[str],
    before: _Ran,
    orders: Sequence[Batch],
    whole: bool = False,
) -> Iterator[_Ran]:
    """The runs that give the same loss with columns in the order of the samples, too.

    whole: with rows in the old order, instead.
    """
    order = [*range(1, experiment.size), 0]
    for batch in (pairs for each in orders for pairs in _of_pairs(experiment, each, order, whole)):
        after = _run(experiment, ops, batch)
        if _is_alike(before, after):
            yield after


def _is_alike(one: _Ran, two: _Ran) -> bool:
    return one.loss is not None and two.loss is not None and _near(one.loss, two.loss)


def _paired(one: _Ran, two: _Ran) -> Iterator[tuple[Met, Met]]:
    if len(one.met) == len(two.met):
        yield from zip(one.met, two.met, strict=True)


def _turned(experiment: Experiment, order: Sequence[int]) -> Iterator[Batch]:
    """The batch in this order; and but for what is the same in another batch, if anything is."""
    own, alike = experiment.tensors, set[str]()
    for batch in islice(experiment.subject.batches, LOOKED):
        other = {path: leaf for path, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}
        if other.keys() == own.keys():
            same = {path for path, leaf in other.items() if _same(leaf, own[path])}
            alike |= same if len(same) < len(own) else set()
    turned = take(experiment.batch, order, experiment.layout)
    yield turned
    if alike:
        yield map_leaves(turned, lambda path, leaf: own[path] if path in alike else leaf)


def _of_pairs(
    experiment: Experiment, turned: Batch, order: Sequence[int], whole: bool
) -> Iterator[Batch]:
    """With the columns turned like the rows, of all keys that have as many, and of some of them.

    whole: with neither turned, but of all keys.
    """
    n, own = experiment.size, experiment.tensors

    def squared(path: str, leaf: Any, some: Sequence[str]) -> Any:
        if path not in some:
            return leaf
        return own[path] if whole else leaf[:, order]

    squares = [path for path, leaf in own.items() if leaf.ndim > 1 and leaf.shape[:2] == (n, n)]
    for count in range(len(squares) if len(squares) <= SQUARES else 1, 0, -1):
        for some in combinations(squares, count):
            if whole and count == len(own):
                continue  # nothing is left that is turned
            yield map_leaves(turned, partial(squared, some=some))


def _run(experiment: Experiment, ops: Sequence[str], batch: Batch) -> _Ran:
    subject, mode = experiment.subject, _Meetings(ops, experiment.size)

    def step() -> Tensor:
        with attempted("`Subject.loss`"), torch.no_grad():
            loss = subject.loss(subject.model.eval(), copied(batch))
        losses.append(loss.detach().clone())
        return torch.zeros(())

    losses = list[Tensor]()
    try:
        replay(step, subject.model, Snapshot.take(subject.model), under=[mode])
    except ExperimentError:
        return _Ran()
    return _Ran(mode.found, losses[-1])


def _is_across(one: Met, two: Met, order: list[int]) -> bool:
    if one.other.shape != two.other.shape or _near(one.vector, one.vector[order]):
        return False
    rows = _near(two.vector, one.vector[order]) and _near(two.other, one.other[order])
    return rows and not _near(two.other, one.other[order][..., order])


def _is_meant(one: Met, two: Met, order: list[int]) -> bool:
    """Whether what meets the columns has come in their order: that of the rows, or the old one."""
    if one.other.shape != two.other.shape:
        return False
    turned, rows = one.vector[order], one.other[order]
    both = _near(two.vector, turned) and _near(two.other, rows[..., order])
    return both or (_near(two.vector, one.vector) and _near(two.other, rows))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other))


def _near(one: Tensor, other: Tensor) -> bool:
    a, b = one.double(), other.double()
    return bool(torch.allclose(a, b, rtol=NEAR, atol=NEAR * float(b.abs().max())))
