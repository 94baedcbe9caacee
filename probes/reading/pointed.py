"""Places at which code reads rows of vectors that the model has put something in front of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.reading.alive import Alive, gradients
from probes.reading.asked import is_ids
from probes.reading.cut import SMALL, projected
from probes.reading.indexing import Laid, Pick

MOST = 100  # joins that are looked at, from the first on
ASKED = 8  # vectors that are asked for what they are made of


@dataclass(frozen=True, slots=True, eq=False)
class Pointed:
    """Rows that are read by places, of which the first ones are no tokens.

    pick: how they are read. key: the one whose numbers the places are, as they are or moved by
    one number; None where the model makes them. front: rows before the first token's; width:
    tokens. at: (sample, unit) the rows that are read; scored: those that the loss hangs on. again:
    where code takes tokens alone by the same places; own: the token that it takes there less the
    one that is read here.
    """

    pick: Pick
    key: str | None
    front: int
    width: int
    at: Tensor
    scored: Tensor
    again: Pick | None = None
    own: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Vectors (sample, row, feature), `width` of which are tokens; `front` stand before these."""

    order: int
    front: int
    width: int
    made: Tensor


def pointed(experiment: Experiment, seen: Alive) -> list[Pointed]:
    """What is read so of vectors that are shown what stands after them.

    Not where the same places, moved by another number, read there as well: of tokens that are read
    with those beside them, each reads its own.
    """
    rows = _rows(seen, experiment.size)
    found = [each for p in seen.picks if (each := _pointed(experiment, seen, p, rows)) is not None]
    return [each for each in found if not any(_is_beside(one, each) for one in found)]


def _rows(seen: Alive, size: int) -> list[_Rows]:
    found = list[_Rows]()
    for laid in seen.laid[:MOST]:
        flat = laid.out.ndim < 2 + laid.out.is_floating_point()
        if flat or size < 2 or any(len(each) != size for each in laid.parts):
            continue
        made = [(laid.order, laid.out)]
        if not laid.out.is_floating_point():
            made = [(p.order, p.out) for p in seen.looked_up if _is_same(p.index, laid.out)]
        front, widest = _front(laid)
        within = next((each for each in found[::-1] if _is_made_of(widest, each.made)), None)
        width = widest.shape[1]
        if within is not None and within.front:
            front, width = front + within.front, within.width
        found += [_Rows(order, front, width, out) for order, out in made]
    return found


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _is_made_of(part: Tensor, made: Tensor) -> bool:
    """Whether it has as many rows as what it is made of."""
    if part.shape[1] != made.shape[1] or not part.requires_grad or not made.requires_grad:
        return False
    return gradients(projected(part), [made])[0] is not None


def _front(laid: Laid) -> tuple[int, Tensor]:
    """Rows before the widest part, if these are no tokens of the samples, and that part."""
    widths = [each.shape[1] for each in laid.parts]
    widest = widths.index(max(widths))
    before = laid.parts[:widest]
    alike = all(each.shape[1] == 1 or bool((each == each[:1]).all()) for each in before)
    return (sum(widths[:widest]) if alike else 0), laid.parts[widest]


def _pointed(
    experiment: Experiment, seen: Alive, pick: Pick, every: Sequence[_Rows]
) -> Pointed | None:
    if not pick.out.requires_grad:
        return None
    for rows in every[::-1]:
        at = None if rows.order > pick.order else rows_at(pick, *rows.made.shape[:2])
        scored = None if at is None else _scored(seen, pick, at)
        if at is None or scored is None:
            continue
        reads = _reads(pick, at, scored, rows.made)
        if reads is None:
            continue
        if not rows.front or not reads:
            return None
        named = experiment.tensors.items()
        key = next((k for k, t in named if _moved(at, t, scored) is not None), None)
        again = _again(seen, at, scored, rows)
        if key is None and again is None:
            return None
        return Pointed(pick, key, rows.front, rows.width, at, scored, *(again or ()))
    return None


def rows_at(pick: Pick, size: int, width: int) -> Tensor | None:
    """(sample, unit) the row of its own sample that each unit is; None where they are not that."""
    at, shape = pick.index.long(), tuple(pick.source.shape)
    if pick.axis == 0 and not pick.rows and shape[0] == size * width and at.numel() % size == 0:
        flat = at.reshape(size, -1) if pick.op != "aten.gather" else at[:0]
        own = torch.arange(size, device=flat.device)[:, None]
        return flat % width if len(flat) and bool((flat // width == own).all()) else None
    if pick.axis != 1 or shape[:2] != (size, width):
        return None
    if pick.op == "aten.gather":
        wide = at.reshape(len(at), at.shape[1], -1)
        same = len(at) == size and bool((wide == wide[..., :1]).all())
        return wide[..., 0] if same else None
    if len(pick.rows) != 1 or at.ndim > 2:
        return None
    own = torch.arange(size, device=at.device)
    places, whose = torch.broadcast_tensors(at, pick.rows[0].long().to(at.device))
    if len(places) != size or not bool((whose == own.reshape(-1, *[1] * (places.ndim - 1))).all()):
        return None
    found: Tensor = places.reshape(size, -1)
    return found


def _scored(seen: Alive, pick: Pick, at: Tensor) -> Tensor | None:
    """(sample, unit) whether the loss hangs on what was read; None where on nothing."""
    grad = seen.of_loss([pick.out])[0]
    if grad is None or grad.numel() % at.numel():
        return None
    scored = (grad.reshape(*at.shape, -1) != 0).any(-1)
    return scored if bool(scored.any()) else None


def _reads(pick: Pick, at: Tensor, scored: Tensor, made: Tensor) -> bool | None:
    """Whether any vector is made of a row after the one it is read at; None if of none at all."""
    out, felt = pick.out.reshape(*at.shape, -1), False
    for sample, unit in scored.nonzero()[:ASKED].tolist():
        grad = gradients(projected(out[sample, unit]), [made])[0]
        if grad is None or not bool(grad.any()):
            continue
        felt, sizes = True, grad[sample].flatten(1).abs().amax(1)
        if bool((sizes[int(at[sample, unit]) + 1 :] > SMALL * sizes.max()).any()):
            return True
    return False if felt else None


def _moved(at: Tensor, key: Tensor, scored: Tensor) -> int | None:
    """By how much all places are moved that the loss hangs on; None where they are others."""
    if not is_ids(key) or key.numel() != at.numel() or len(key) != len(at):
        return None
    named = key.reshape(at.shape).to(at.device)
    by = (at - named)[scored].unique()
    return int(by) if len(by) == 1 and len(named[scored].unique()) > 1 else None


def _again(seen: Alive, at: Tensor, scored: Tensor, rows: _Rows) -> tuple[Pick, int] | None:
    """Where the same places are taken among as many rows as there are tokens, and how they lie."""
    for each in (*seen.named, *seen.picks):
        other = rows_at(each, len(at), rows.width)
        by = None if other is None else _moved(at - rows.front, other, scored)
        if by is not None:
            return each, -by
    return None


def _is_beside(one: Pointed, other: Pointed) -> bool:
    """Whether both read the same vectors by the same places, moved by different numbers."""
    if one.pick.source is not other.pick.source or one.at.shape != other.at.shape:
        return False
    by = (one.at - other.at)[one.scored & other.scored].unique()
    return len(by) == 1 and bool(by != 0)
