"""What a tensor holds that is not finite: NaN, +inf and -inf told apart, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FIRST = 16
"""Coordinates that are kept of a tensor's bad elements."""

ALONG = 4096
"""Indices that are kept along each axis: as many samples as a batch is likely to hold."""


@dataclass(frozen=True, slots=True)
class Held:
    """Counts of NaN, +inf and -inf among `total` elements."""

    nan: int
    plus: int
    minus: int
    total: int

    @property
    def inf(self) -> int:
        """Infinite elements of either sign."""
        return self.plus + self.minus

    @property
    def count(self) -> int:
        """Elements that are not finite."""
        return self.nan + self.plus + self.minus

    def __str__(self) -> str:
        kinds = ((self.nan, "NaN"), (self.plus, "+inf"), (self.minus, "-inf"))
        said = ", ".join(f"{count} {kind}" for count, kind in kinds if count)
        return f"{said} of {self.total}"


@dataclass(frozen=True, slots=True)
class Where:
    """The bad elements of one kind: the first ones' coordinates, and the indices along each axis.

    The coordinates are cut at the first sixteen, the indices at the first 4096.
    """

    shape: tuple[int, ...]
    first: tuple[tuple[int, ...], ...]
    along: tuple[tuple[int, ...], ...]


def values_of(tensor: Tensor) -> Tensor | None:
    """The tensor as numbers that can be looked at; None where it has none that can be bad.

    Those are integers, tensors of no element, without data (meta), or of an unknown layout.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
        return None
    values = tensor.detach()
    if values.layout is torch.sparse_coo:
        values = values._values()
    elif values.layout is not torch.strided or values.is_nested:
        return None
    if not values.numel():
        return None
    if values.is_complex():
        return torch.view_as_real(values.resolve_conj())
    return values if values.element_size() > 1 else values.float()  # float8 knows no isnan


def held(tensor: Tensor) -> Held | None:
    """What it holds that is not finite; None where all is finite. Reads the device."""
    values = values_of(tensor)
    if values is None or math.isfinite(float(torch.linalg.vector_norm(values, torch.inf))):
        return None
    counts = torch.stack([values.isnan().sum(), values.isposinf().sum(), values.isneginf().sum()])
    nan, plus, minus = counts.tolist()
    return Held(nan, plus, minus, values.numel())


def held_number(number: object) -> Held | None:
    """The same of a python number."""
    if not isinstance(number, float) or math.isfinite(number):
        return None
    return Held(int(math.isnan(number)), int(number == math.inf), int(number == -math.inf), 1)


def where(tensor: Tensor, nan: bool) -> Where:
    """The coordinates of its NaNs, or of its infinities."""
    values = values_of(tensor)
    assert values is not None
    found = (values.isnan() if nan else values.isinf()).nonzero()
    along = tuple(tuple(axis.unique()[:ALONG].tolist()) for axis in found.unbind(1))
    first = tuple(tuple(row) for row in found[:FIRST].tolist())
    return Where(tuple(values.shape), first, along)


def largest_finite(tensors: list[Tensor]) -> float | None:
    """The largest magnitude among the finite elements; None where there is none."""
    found = []
    for tensor in tensors:
        values = values_of(tensor)
        if values is not None:
            finite = torch.where(torch.isfinite(values), values.abs(), -1)
            found.append(float(finite.max()))
    return max((value for value in found if value >= 0), default=None)


def is_mask(tensor: Tensor) -> bool:
    """Whether it can only be an additive mask: -inf where hidden, 0 where not."""
    values = values_of(tensor)
    return values is not None and bool(((values == 0) | values.isneginf()).all())


def is_binary(tensor: Tensor) -> bool:
    """Whether it holds zeros and ones alone, as a mask does."""
    return bool(((tensor == 0) | (tensor == 1)).all())
