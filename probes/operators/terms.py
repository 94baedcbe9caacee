"""Products that are summed, as letters of an einsum: which axes two factors share and lose."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MATRICES: tuple[Callable[..., Any], ...] = (
    *(torch.matmul, torch.bmm, torch.mm, Tensor.matmul, Tensor.bmm, Tensor.mm),
    *(Tensor.__matmul__, Tensor.__rmatmul__),
)
TIMES: tuple[Callable[..., Any], ...] = (
    *(torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__),
)
SUMS: tuple[Callable[..., Any], ...] = (torch.sum, Tensor.sum)


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """One factor of a product, a letter an axis; an axis that is spread over others has none."""

    tensor: Tensor
    letters: tuple[str | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Contraction:
    """Two factors, and the letters over which their product is summed."""

    factors: tuple[Factor, Factor]
    summed: frozenset[str]


def of_matrices(func: Any, args: Sequence[Any]) -> Contraction | None:
    """A product of matrices, or of batches of them."""
    if len(args) < 2 or not all(isinstance(each, Tensor) and each.ndim > 1 for each in args[:2]):
        return None
    one, two = args[1::-1] if func is Tensor.__rmatmul__ else args[:2]
    left = (*_last(one.ndim - 2), "i", "j")
    right = (*_last(two.ndim - 2), "j", "k")
    return Contraction((Factor(one, left), Factor(two, right)), frozenset("j"))


def of_einsum(args: Sequence[Any]) -> Contraction | None:
    """A `torch.einsum` of two factors by its equation."""
    given = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    if not args or not isinstance(args[0], str) or len(given) != 2:
        return None
    before, arrow, out = args[0].replace(" ", "").partition("->")
    terms = before.split(",")
    letters = [_spelt(term, each.ndim) for term, each in zip(terms, given, strict=False)]
    if len(terms) != 2 or not all(len(a) == b.ndim for a, b in zip(letters, given, strict=True)):
        return None
    every = [letter for each in letters for letter in each]
    if arrow:
        kept = {*out.replace(".", ""), *(each for each in every if len(each) > 1)}
    else:
        kept = {letter for letter in every if every.count(letter) == 1 or len(letter) > 1}
    factors = Factor(given[0], letters[0]), Factor(given[1], letters[1])
    return Contraction(factors, frozenset(every) - kept)


def of_product(one: Tensor, two: Tensor, out: Tensor) -> tuple[Factor, Factor]:
    """The factors of a product entry by entry; what is spread over an axis does not have it."""

    def factor(tensor: Tensor) -> Factor:
        names = string.ascii_letters[: out.ndim][out.ndim - tensor.ndim :]
        sizes = tuple(out.shape)[out.ndim - tensor.ndim :]
        pairs = zip(names, tensor.shape, sizes, strict=True)
        return Factor(tensor, tuple(name if n == size else None for name, n, size in pairs))

    return factor(one), factor(two)


def of_sum(
    factors: tuple[Factor, Factor], ndim: int, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Contraction | None:
    """Such a product, summed over some of its axes."""
    dims = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    if isinstance(dims, int):
        dims = (dims,)
    if not isinstance(dims, (tuple, list)) or not all(isinstance(each, int) for each in dims):
        return None
    return Contraction(factors, frozenset(string.ascii_letters[each % ndim] for each in dims))


def _last(count: int) -> tuple[str, ...]:
    """Names of so many axes before the last two, counted from the last."""
    return tuple(f"batch{i}" for i in range(count, 0, -1))


def _spelt(term: str, ndim: int) -> tuple[str, ...]:
    """The letters of a term; those of its dots are longer."""
    before, dots, after = term.partition("...")
    return (*before, *(_last(ndim - len(before) - len(after)) if dots else ()), *after)
