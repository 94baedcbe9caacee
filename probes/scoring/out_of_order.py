"""Samples that a loss sorts, while something of them is left in the order of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probes.batch import map_leaves, take
from probes.compare import NOISES, Baseline
from probes.experiment import LOSS, Experiment, attempted, copied
from probes.finding import ExperimentError
from probes.operators.sample_orders import Met, SampleOrders
from probes.scoring.in_turn import unturned
from probes.seeding import seed_everything
from probes.subject import Batch

ROWS = 32  # samples, at most
FEWEST = 4
SEEDS = (3, 8)  # of the orders that are tried
MOVED = 1e-4  # of the loss, from which on it hangs on the order
APART = 1e-5  # of the spread of what is sorted by: less is a tie
SAME = 1e-4  # of the largest number: what does not go by the order of the batch
OTHER = 1e-3  # of the spread: what does


@dataclass(frozen=True, slots=True)
class OutOfOrder:
    """key: what is sorted by, at `sorted_at`. ordered: what was put in that order.

    other: what was not and meets it at `source`. loss, moved: with samples as they stand, and
    exchanged.
    """

    key: str
    sorted_at: str | None
    ordered: str
    other: str
    source: str | None
    loss: float
    moved: float


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """One run of the loss alone."""

    loss: float
    orders: SampleOrders
    met: list[Met]


class _Losses:
    """The loss alone, in evaluation mode and always from one state, with what it sorts."""

    def __init__(self, experiment: Experiment, batch: Batch, learns: bool) -> None:
        self.batch, self._learns = batch, learns
        self._subject = experiment.subject
        self._last: _Seen | None = None
        repeats = experiment.repeats or experiment.evaluated.noise == 0
        self._baseline = Baseline(self._call, batch, self._subject.model, repeats=repeats)
        self.first = self._taken()
        self.noise = self._baseline.noise

    def _call(self, batch: Batch) -> dict[str, Tensor]:
        fresh = map_leaves(batch, _learning) if self._learns else copied(batch)
        what = "`Subject.loss`, on a changed batch in evaluation mode,"
        with attempted(what), torch.enable_grad(), SampleOrders() as orders:
            loss = self._subject.loss(self._subject.model.eval(), fresh)
        self._last = _Seen(float(loss.detach()), orders, orders.reaching(loss))
        return {LOSS: loss}

    def _taken(self) -> _Seen:
        assert self._last is not None
        return self._last

    def of(self, batch: Batch, seed: int | None = None) -> _Seen:
        """The same of another batch, or from another random state."""
        self._baseline.run(batch, before=None if seed is None else lambda: seed_everything(seed))
        return self._taken()

    def moves(self, loss: float) -> bool:
        """Whether a loss is another than the first, beyond noise and rounding."""
        limit = max(MOVED * abs(self.first.loss), NOISES * self.noise, 1e-7)
        return abs(loss - self.first.loss) > limit


def _learning(_: str, leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return leaf.detach().clone().requires_grad_().clone()
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def out_of_order(experiment: Experiment) -> OutOfOrder | None:
    """What the loss sorts by, and what it left as it was; None where all goes together."""
    if "out of order" not in experiment.memo:
        found = None
        for learns in (True, False):  # code may hand its batch over to numpy
            with suppress(ExperimentError):
                found = _found(experiment, learns)
                break
        experiment.memo["out of order"] = found
    told: OutOfOrder | None = experiment.memo["out of order"]
    return told


def _found(experiment: Experiment, learns: bool) -> OutOfOrder | None:
    if not _Losses(experiment, experiment.batch, learns).first.met:
        return None
    asked = _apart(experiment, learns)
    if asked is None or unturned(asked) is not None:
        return None
    losses = _Losses(asked, asked.batch, learns)
    if not losses.first.met or losses.moves(losses.of(asked.batch, seed=987_654_321).loss):
        return None
    found = None
    for seed in SEEDS:
        chance = torch.Generator().manual_seed(seed)
        order = torch.randperm(asked.size, generator=chance, device="cpu").tolist()
        other = losses.of(take(asked.batch, order, asked.layout))
        met = next(_left(losses.first, other), None) if losses.moves(other.loss) else None
        if met is None:
            return None
        found = found or _said(asked, losses.first, other, met)
    return found


def _apart(experiment: Experiment, learns: bool) -> Experiment | None:
    """With many samples, no two of which are alike in what is sorted by."""
    whole = experiment.batch if experiment.uncut is None else experiment.uncut
    asked = experiment.of_batch(whole)
    rows = list(range(min(asked.size, ROWS)))
    fewer = asked.of_batch(take(whole, rows, asked.layout))
    sorts = _Losses(fewer, fewer.batch, learns).first.orders.sorts
    for key in (each.key for each in sorts if len(each.key) == fewer.size):
        rows = _distinct(key, rows)
    if len(rows) < FEWEST:
        return None
    return fewer.of_batch(take(fewer.batch, rows, asked.layout))


def _distinct(key: Tensor, rows: Sequence[int]) -> list[int]:
    """Those of the rows that are alike to none before in what is sorted by."""
    numbers = key.double()
    least = APART * float(numbers.max() - numbers.min())
    kept: list[int] = []
    for row in rows:
        if not kept or bool(((numbers[kept] - numbers[row]).abs() > least).all()):
            kept.append(row)
    return kept


def _left(one: _Seen, two: _Seen) -> Iterator[Met]:
    """Meetings of what does not go by the order of the batch with what does, of the first run."""
    same = _is_alike(one, two)
    good = {i for i in range(len(one.orders.sorts)) if same and _is_put(one, two, i)}
    for before, after in zip(one.met, two.met, strict=False):
        if before.order not in good or before.paired:
            continue
        ordered = [_lines(each.ordered, each.axes[0]) for each in (before, after)]
        other = [_lines(each.other, each.axes[1]) for each in (before, after)]
        if _varies(ordered[0]) and _is_same(*ordered) and _differs(*other):
            yield before


def _is_alike(one: _Seen, two: _Seen) -> bool:
    def shape(seen: _Seen) -> list[Any]:
        met = [(e.name, e.source, e.order, e.ordered.shape, e.other.shape) for e in seen.met]
        return [[len(each.key) for each in seen.orders.sorts], met]

    return shape(one) == shape(two)


def _is_put(one: _Seen, two: _Seen, number: int) -> bool:
    """Whether a sort takes the samples from wherever they stand in the batch: no two alike."""
    keys = [each.orders.sorts[number].key.double() for each in (one, two)]
    lines = [key.sort().values for key in keys]
    least = APART * float(lines[0][-1] - lines[0][0])
    apart = bool((lines[0].diff() > least).all())
    return apart and _is_same(*(each[:, None] for each in lines)) and not torch.equal(*keys)


def _lines(tensor: Tensor, axis: int) -> Tensor:
    """(entry, 2) what stands along the axis, in whatever order it stands along others."""
    flat = tensor.double().movedim(axis, 0)[..., None].flatten(1)
    flat = flat.nan_to_num(0.0, 1e6, -1e6)
    return torch.stack([flat.mean(1), flat.square().mean(1)], 1)


def _varies(lines: Tensor) -> bool:
    return bool((lines.amax(0) - lines.amin(0) > SAME * lines.abs().amax()).any())


def _is_same(one: Tensor, two: Tensor) -> bool:
    return float((one - two).abs().max()) <= SAME * float(one.abs().max())


def _differs(one: Tensor, two: Tensor) -> bool:
    spread = one[:, 0].max() - one[:, 0].min()
    return bool((one - two)[:, 0].abs().max() > OTHER * spread) and not _is_same(one, two)


def _said(asked: Experiment, first: _Seen, other: _Seen, met: Met) -> OutOfOrder:
    sort = first.orders.sorts[met.order]
    roots = [_name(asked, each) for each in first.orders.picked.get(met.order, ())]
    known = list(dict.fromkeys(each for each in roots if each is not None))
    return OutOfOrder(
        key=_name(asked, sort.key) or "what is made of them",
        sorted_at=sort.source,
        ordered=", ".join(known) or "what is made of them",
        other=_name(asked, met.other) or _made(met),
        source=met.source,
        loss=first.loss,
        moved=other.loss,
    )


def _made(met: Met) -> str:
    return "what is made of what the model gives" if met.learned else "what is made of the rest"


def _name(asked: Experiment, tensor: Tensor) -> str | None:
    """The key of the batch, or the output, with these very numbers."""
    flat = tensor.detach().flatten().double()
    for key, value in {**asked.tensors, **asked.outputs}.items():
        own = value.detach().flatten()
        if own.numel() != flat.numel() or own.is_complex():
            continue
        if any(torch.allclose(each, flat) for each in (own.double(), -own.double())):
            return f"`{key}`"
    return None
