"""What is true of one stored tensor, and of a checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 8  # how many rows of a tensor are named
PIECE = 2**22  # numbers looked at together, so that no copy of a large tensor is made
SLOTS = r"exp_avg\w*|max_exp_avg\w*|momentum_buffer|square_avg|grad_avg|acc_delta|exp_inf"
OPTIMIZER = re.compile(rf"(^|\.)optim\w*(\.|$)|\.({SLOTS})$")
RANDOM = re.compile(r"^(random|rng)\b")
UNSET = re.compile(r"(^|\.)(min_val|max_val)$")  # a quantisation observer starts at infinity


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One tensor of a checkpoint.

    nan, inf, minus_inf: how many of its numbers are so. rows: the first indices along its first
    axis that hold one; bad_rows: how many such indices there are, of shape[0].
    abs_max: the largest absolute number among the finite ones; 0 where there is none.
    subnormal: in 16 bits, how many are not zero and below the dtype's smallest normal number.
    change: norm of the difference to the checkpoint before over the norm there, over numbers that
    are finite in both; None where there is none before, or of another shape.
    bad_before: how many were not finite in the checkpoint before; None as above.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    nan: int = 0
    inf: int = 0
    minus_inf: int = 0
    rows: tuple[int, ...] = ()
    bad_rows: int = 0
    abs_max: float = 0.0
    subnormal: int = 0
    change: float | None = None
    bad_before: int | None = None

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes, as far as the shape tells."""
        return self.count * self.dtype.itemsize

    @property
    def bad(self) -> int:
        """How many numbers are not finite."""
        return self.nan + self.inf + self.minus_inf

    @property
    def of_optimizer(self) -> bool:
        """Whether its name says that it belongs to an optimizer's state."""
        return OPTIMIZER.search(self.name) is not None

    @property
    def may_be_mask(self) -> bool:
        """Whether it holds `-inf` alone, where a mask among the buffers holds it in health.

        A weight, an optimizer's state, and what was finite before hold none in health.
        """
        alone = self.minus_inf > 0 and self.nan == self.inf == 0
        trained = self.of_optimizer or self.name.endswith("weight")
        fresh = self.bad_before is not None and self.bad_before < self.bad
        return alone and not trained and not fresh

    @property
    def poisoned(self) -> bool:
        """Whether it holds what no healthy tensor of its kind does."""
        unset = self.nan == 0 and UNSET.search(self.name) is not None
        return self.bad > 0 and not self.may_be_mask and not unset


@dataclass(frozen=True, slots=True)
class Examined:
    """A checkpoint's tensors; gone: names that the checkpoint before had and this one has not."""

    name: str
    tensors: tuple[TensorFacts, ...]
    gone: tuple[str, ...] = ()

    @property
    def poisoned(self) -> tuple[TensorFacts, ...]:
        """Its poisoned tensors, the model's before the optimizer's."""
        sick = (each for each in self.tensors if each.poisoned)
        return tuple(sorted(sick, key=lambda each: each.of_optimizer))

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(each.size for each in self.tensors)

    @property
    def dtypes(self) -> Mapping[str, int]:
        """How many tensors there are of each dtype, the most frequent first."""
        names = [str(each.dtype).removeprefix("torch.") for each in self.tensors]
        return {name: names.count(name) for name in sorted(set(names), key=names.count)[::-1]}

    @property
    def changes(self) -> tuple[TensorFacts, ...]:
        """The tensors that changed since the checkpoint before, the largest change first.

        The optimizer's come after the model's; random states are left out.
        """
        moved = [
            (each.of_optimizer, -each.change, each)
            for each in self.tensors
            if each.change is not None and each.change > 0 and not RANDOM.search(each.name)
        ]
        return tuple(each for _, _, each in sorted(moved, key=lambda pair: pair[:2]))


def facts(name: str, tensor: Tensor, before: Tensor | None = None) -> TensorFacts:
    """What is true of the tensor, beside the one of this name in the checkpoint before."""
    shape, dtype = tuple(tensor.shape), tensor.dtype
    values = plain(tensor)
    if values is None:
        return TensorFacts(name, shape, dtype)
    nan = inf = minus_inf = subnormal = 0
    abs_max = 0.0
    for piece in pieces(values):
        sizes = piece.abs()
        if not _all_finite(piece):
            nan += int(piece.isnan().sum())
            inf += int((piece == math.inf).sum())
            minus_inf += int((piece == -math.inf).sum())
            sizes = sizes[piece.isfinite()]
        abs_max = max(abs_max, float(sizes.max()) if len(sizes) else 0.0)
        if dtype.itemsize == 2:
            subnormal += int(((sizes > 0) & (sizes < torch.finfo(dtype).tiny)).sum())
    rows, bad_rows = _rows(values) if nan + inf + minus_inf and values.shape == shape else ((), 0)
    change, bad_before = _beside(values, before)
    return TensorFacts(
        name,
        shape,
        dtype,
        nan,
        inf,
        minus_inf,
        rows,
        bad_rows,
        abs_max,
        subnormal,
        change,
        bad_before,
    )


def plain(tensor: Tensor) -> Tensor | None:
    """The tensor's numbers as a dense real tensor; None where they cannot but be finite."""
    if tensor.is_quantized:
        return None
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor if tensor.is_floating_point() and tensor.numel() > 0 else None


def pieces(values: Tensor) -> Iterator[Tensor]:
    """(number,) the numbers in pieces, at least as float32, which every 8-bit kind fits into."""
    wide = torch.float64 if values.dtype is torch.float64 else torch.float32
    for piece in values.reshape(-1).split(PIECE):  # (number,)
        yield piece.to(wide)


def _rows(values: Tensor) -> tuple[tuple[int, ...], int]:
    """The first indices along the first axis that hold a number that is not finite, and how many.

    A scalar has none.
    """
    if values.ndim == 0:
        return (), 0
    per_row = values[0].numel()
    bad = torch.cat([~piece.isfinite() for piece in pieces(values)])
    found = bad.reshape(-1, per_row).any(1).nonzero().flatten()  # (row,)
    return tuple(found[:ROWS].tolist()), len(found)


def _beside(values: Tensor, before: Tensor | None) -> tuple[float | None, int | None]:
    """The relative change, and how many numbers were not finite before."""
    old = None if before is None else plain(before)
    if old is None or old.shape != values.shape:
        return None, None
    moved = held = 0.0
    bad = 0
    for new_piece, old_piece in zip(pieces(values), pieces(old), strict=True):
        if not (_all_finite(new_piece) and _all_finite(old_piece)):
            was = old_piece.isfinite()
            bad += len(was) - int(was.sum())
            both = was & new_piece.isfinite()
            new_piece, old_piece = new_piece[both], old_piece[both]
        moved += _square(new_piece - old_piece)
        held += _square(old_piece)
    if held == 0:
        return (math.inf if moved > 0 else 0.0), bad
    return math.sqrt(moved / held), bad


def _all_finite(piece: Tensor) -> bool:
    """Whether no number is NaN or infinite, in one pass."""
    return all(map(math.isfinite, (float(edge) for edge in torch.aminmax(piece))))


def _square(values: Tensor) -> float:
    """The sum of squares, added up in float64."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2
