"""What is put into an order that code sorts, and what it meets entry by entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.ancestry import leaves_behind, nodes_behind
from probes.nested import tensors_in
from probes.raised import source_here
from probes.reading.alive import gradients

SORTS = {"sort", "argsort", "msort"}
GATHERS = {"getitem", "index_select", "gather", "take", "take_along_dim"}
OPERATIONS = {
    *("add", "sub", "subtract", "mul", "multiply", "div", "divide", "true_divide", "truediv"),
    *("pow", "maximum", "minimum", "where", "masked_fill", "masked_select", "addcmul", "lerp"),
}
ELEMENTWISE = OPERATIONS | {f"{way}{name}" for name in OPERATIONS for way in "ri"}
PRODUCTS = {"dot", "inner", "matmul", "vdot"}  # of two lines of entries
LOSSES = {
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "gaussian_nll_loss"),
    *("binary_cross_entropy", "binary_cross_entropy_with_logits", "poisson_nll_loss"),
    *("cross_entropy", "nll_loss", "cosine_similarity"),
}
MASKS = (torch.bool, torch.uint8)
MEETS = ELEMENTWISE | PRODUCTS | LOSSES
FEWEST = 3  # entries
CALLS = 400  # meetings of a pass


@dataclass(frozen=True, slots=True, eq=False)
class Sorted:
    """(entry,) what was sorted by, and by which line."""

    key: Tensor
    source: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Met:
    """An operation on two tensors whose entries along one axis go together.

    order: number of the sort that `ordered` is made of; what `other` was made of was never put in
    it. paired: what `ordered` was picked from is what `other` is made of, and each entry of it has
    one of those. learned: `other` is made of weights.
    """

    order: int
    ordered: Tensor
    other: Tensor
    axes: tuple[int, int]
    out: Tensor
    name: str
    source: str | None
    paired: bool
    learned: bool


class SampleOrders(TorchFunctionMode):
    """While it is entered, `sorts` and `meetings` list those; `picked` what each order was put to.

    Followed is what has an entry for each that was sorted. Rows that meet others of their kind, or
    of what they meet as they stand as well, as negatives do, may be paired on purpose.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sorts: list[Sorted] = []
        self.meetings: list[Met] = []
        self.picked: dict[int, list[Tensor]] = {}
        self._plain: list[tuple[Tensor, ...]] = []  # what meets, each time
        self._left: list[Tensor] = []  # what meets what was sorted, of each meeting
        self._orders = WeakTensorKeyDictionary()  # to the numbers of all that a tensor is made of

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it was given was looked at."""
        given = dict(kwargs or {})
        out = func(*args, **given)
        name = getattr(func, "__name__", "").strip("_")
        told = list(tensors_in([args, given]))
        if name in SORTS and told and _is_line(told[0]):
            for each in tensors_in(out):
                self._orders[each] = {len(self.sorts)}
            self.sorts.append(Sorted(told[0].detach().flatten(), source_here()))
        elif self.sorts and any(each in self._orders for each in told):
            self._follow(name, told, out)
        if name in MEETS and len(told) == 2 and len(self._plain) < CALLS:
            self._plain.append(tuple(told))
        return out

    def reaching(self, loss: Tensor) -> list[Met]:
        """The meetings that the loss is made of."""
        behind = set(nodes_behind(loss))
        plain = {frozenset(map(id, each)) for each in self._plain}
        return [
            each
            for each, other in zip(self.meetings, self._left, strict=True)
            if each.out.grad_fn in behind
            and not any(
                frozenset((id(root), id(other))) in plain
                for root in self.picked.get(each.order, ())
            )
        ]

    def _follow(self, name: str, told: Sequence[Tensor], out: Any) -> None:
        if name in GATHERS:
            for number in self._of(told[-1]) if told[-1] is not told[0] else ():
                self.picked.setdefault(number, []).append(told[0])
        made = list(tensors_in(out))
        if len(made) == 1 and made[0].grad_fn is not None and len(self.meetings) < CALLS:
            self.meetings += self._met(name, told, made[0])
        for each in made:
            self._orders[each] = {
                number
                for one in told
                for number in self._of(one)
                if len(self.sorts[number].key) in each.shape
            }

    def _of(self, tensor: Tensor) -> set[int]:
        found: set[int] = self._orders.get(tensor, set())
        return found

    def _met(self, name: str, told: Sequence[Tensor], out: Tensor) -> Iterator[Met]:
        for one, two in permutations(told, 2):
            for number in self._of(one) - self._of(two):
                axes = _together(name, one, two, len(self.sorts[number].key))
                if axes is not None:
                    paired = self._is_paired(number, one, two)
                    learned = any(isinstance(e, nn.Parameter) for e in leaves_behind(two))
                    self._left.append(two)
                    kept = one.detach().clone(), two.detach().clone()
                    yield Met(number, *kept, axes, out, name, source_here(), paired, learned)

    def _is_paired(self, number: int, one: Tensor, two: Tensor) -> bool:
        """Whether rows meet other rows of their own kind, as they may be paired on purpose."""
        behind, roots = set(nodes_behind(two)), self.picked.get(number, ())
        own = [e for e in roots if e is two or (e.grad_fn is not None and e.grad_fn in behind)]
        return any(_reads_one(one, each) for each in own)


def _is_line(tensor: Tensor) -> bool:
    return tensor.ndim > 0 and tensor.numel() == len(tensor) >= FEWEST


def _together(name: str, one: Tensor, two: Tensor, count: int) -> tuple[int, int] | None:
    """The axes of so many entries that an operation takes side by side."""
    if count not in one.shape or count not in two.shape:
        return None
    first = one.shape[0] == two.shape[0] == count
    if name == "getitem":
        return (0, 0) if first and two.dtype in MASKS else None
    if name in LOSSES:
        return (0, 0) if first else None
    if name in PRODUCTS:
        return (0, 0) if first and one.ndim == two.ndim == 1 else None
    if name not in ELEMENTWISE:
        return None
    least = min(one.ndim, two.ndim)
    known = (i for i in range(-least, 0) if one.shape[i] == two.shape[i] == count)
    axis = next(known, None)
    return None if axis is None else (axis, axis)


def _reads_one(tensor: Tensor, root: Tensor) -> bool:
    """Whether every entry that is looked at is made of one entry of the root, or of none."""
    if tensor is root or not (tensor.requires_grad and root.requires_grad):
        return True
    for at in {0, len(tensor) // 2, len(tensor) - 1}:
        grad = gradients(tensor[at].sum(), [root])[0]
        if grad is not None and int(grad[..., None].flatten(1).any(1).sum()) > 1:
            return False
    return True
