"""Which tokens a unit's vector reads: by gradients at the last place where tokens stand apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from probes.reading.alive import Alive, Shown, gradients

SMALL = 1e-7  # of the largest gradient: less is not read
MOST = 64  # units a sample that are asked for
CUTS = 3  # places that are tried
FRONTS = (1, 2)  # how many special tokens a model may put before its input


@dataclass(frozen=True)
class Read:
    """What units read at a cut.

    tokens: (lead, token) boolean, in the unit's own sample and turn. asked: (lead,) the units
    that were looked at. foreign: for each sample the others that its units read. before: (lead,)
    boolean, the units that read what the model puts before the tokens; None where it puts nothing.
    """

    unit: Shown
    cut: Shown
    tokens: Tensor
    asked: Tensor
    foreign: tuple[tuple[int, ...], ...]
    before: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """How units and tokens are counted: lead (sample, ..., unit), shared first axes, tokens.

    more: rows that the model puts beside the tokens, such as `[CLS]`; front: those before them.
    """

    lead: tuple[int, ...]
    shared: int
    width: int
    more: int = 0
    front: int = 0

    @property
    def rows(self) -> tuple[int, ...]:
        """The axes of tokens: the shared ones, then tokens."""
        return (*self.lead[: self.shared], self.width)

    def of_rows(self, value: Tensor) -> Tensor | None:
        """The value as (shared, row, feature), with what is beside the tokens; else None."""
        return _as_axes(value, (*self.lead[: self.shared], self.width + self.more))

    def of_tokens(self, value: Tensor) -> Tensor | None:
        """The value as (shared, token, feature), where it has those axes; else None."""
        rows = self.of_rows(value)
        return None if rows is None else rows.narrow(self.shared, self.front, self.width)

    def of_units(self, value: Tensor) -> Tensor | None:
        """The value as (lead, feature), where it has those axes; else None."""
        return _as_axes(value, self.lead)


def _as_axes(value: Tensor, axes: tuple[int, ...]) -> Tensor | None:
    shape = tuple(value.shape)
    if len(axes) == 2 and shape[:2] == axes[::-1] and axes[0] != axes[1]:
        return value.transpose(0, 1).reshape(*axes, -1)
    for k in range(1, len(shape) + 1):
        if prod(shape[:k]) == prod(axes) and (k == 1 or shape[0] % axes[0] == 0):
            return value.reshape(*axes, -1)
    return None


def units_shown(alive: Alive, shape: Shape, site: str | None = None) -> Iterator[Shown]:
    """Every tensor, in forward order, with a vector for each unit; of one site where it is told."""
    for each in alive.shown:
        known = site is None or each.site in (site, f"{alive.root}.{site}")
        own = shape.of_units(each.tensor)
        if not known or own is None or (site is None and own.shape[-1] < 2):
            continue
        if site is not None or (not _is_token_site(each, shape) and each.tensor.ndim > 1):
            yield each


def units_pooled(alive: Alive, shape: Shape) -> Iterator[Shown]:
    """The first tensors with a vector for each unit that code made and no module was shown.

    What is joined to all units, such as the mean of them, comes to each only after it was made.
    """
    shown = {id(each.tensor) for each in alive.shown}
    found = 0
    for each in alive.pooled:
        own = shape.of_units(each.out)
        later = next((one for one in alive.shown if one.order > each.order), None)
        if own is None or own.shape[-1] < 2 or shape.width in each.out.shape or later is None:
            continue
        if id(each.out) not in shown and found < CUTS:
            found += 1
            yield Shown(later.site, later.module, later.kind, each.order, each.out)


def _is_token_site(each: Shown, shape: Shape) -> bool:
    dims = tuple(each.tensor.shape)
    if len(shape.lead) == 1 and each.tensor.ndim > 2:
        return True  # of one unit a sample the vector has no other axis
    return shape.width in dims and shape.of_tokens(each.tensor) is not None


def cuts(alive: Alive, shape: Shape, unit: Shown, site: str | None = None) -> list[Shown]:
    """Tensors by token that the unit's vector depends on, the last ones, last first."""
    found: list[Shown] = []
    for each in alive.shown:
        fits = each.order < unit.order and each.tensor is not unit.tensor
        named = site is None or each.site == site
        if fits and named and shape.of_tokens(each.tensor) is not None:
            found = [*[one for one in found if one.tensor is not each.tensor], each]
    if not found:
        return []
    grads = gradients(projected(unit.tensor), [each.tensor for each in found])
    felt = [e for e, g in zip(found, grads, strict=True) if g is not None and bool(g.any())]
    return felt[::-1][:CUTS]


def read(shape: Shape, unit: Shown, cut: Shown) -> Read:
    """What each unit's vector reads of the cut's tokens."""
    vectors = shape.of_units(unit.tensor)
    assert vectors is not None
    device = vectors.device
    tokens = torch.zeros(*shape.lead, shape.width, dtype=torch.bool, device=device)
    asked = torch.zeros(shape.lead, dtype=torch.bool, device=device)
    before = torch.zeros_like(asked)
    for place in _places(shape):
        found = _felt(shape, projected(vectors[_at(place)]), cut)
        own = found[_at(place[: shape.shared - 1])]  # (sample, row)
        tokens[_at(place)] = own[:, shape.front : shape.front + shape.width]
        before[_at(place)], asked[_at(place)] = own[:, : shape.front].any(-1), True
    foreign = tuple(_foreign(shape, vectors, cut))
    return Read(unit, cut, tokens, asked, foreign, before if shape.front else None)


def with_front(alive: Alive, shape: Shape) -> Shape | None:
    """The shape of rows of which some stand before the tokens and are put there by the model.

    Told by the first tensor of such rows: each of them still depends on one token at most, all by
    as many places. None where there is no such tensor.
    """
    for more in FRONTS:
        wide = replace(shape, more=more, front=more)
        first = next((one for one in alive.shown if wide.of_rows(one.tensor) is not None), None)
        if first is None:
            continue
        fits = (one for one in alive.shown if one.order < first.order)
        own = [one for one in fits if shape.of_tokens(one.tensor) is not None]
        rows = wide.of_rows(first.tensor)
        if not own or rows is None:
            continue
        ends = (more, shape.width - 1 + more)
        read = [_felt(shape, projected(rows.select(shape.shared, at)), own[-1]) for at in ends]
        alone = (each.sum(-1) == 1 for each in read)
        if all(map(torch.all, alone)) and read[0][..., 0].all() and read[1][..., -1].all():
            return wide
    return None


def _at(place: tuple[int, ...]) -> tuple[int | slice, ...]:
    return (slice(None), *place)


def _foreign(shape: Shape, vectors: Tensor, cut: Shown) -> Iterator[tuple[int, ...]]:
    for sample in range(shape.lead[0]):
        found = _felt(shape, projected(vectors[sample]), cut).flatten(1).any(1)
        found[sample] = False
        yield tuple(found.nonzero().flatten().tolist())


def _places(shape: Shape) -> list[tuple[int, ...]]:
    """Of the axes after the samples: all, or all units of as many turns as fit."""
    if len(shape.lead) == 1:
        return [()]
    inner = shape.lead[1:]
    every = torch.cartesian_prod(*[torch.arange(n, device="cpu") for n in inner]).view(
        -1, len(inner)
    )
    return [tuple(row) for row in every[:MOST].tolist()]


def _felt(shape: Shape, value: Tensor, cut: Shown) -> Tensor:
    """(shared, row) boolean: where the cut has a gradient."""
    grad = gradients(value, [cut.tensor])[0]
    if grad is None:
        wide = (*shape.rows[:-1], shape.width + shape.more)
        return torch.zeros(wide, dtype=torch.bool, device=value.device)
    rows = shape.of_rows(grad)
    assert rows is not None
    size = rows.abs().amax(-1)
    return size > SMALL * size.max()


def projected(value: Tensor) -> Tensor:
    """A sum with weights that do not cancel."""
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64, device="cpu").cos() + 0.3
    return (value.flatten() * weights.to(value.device, value.dtype)).sum()
