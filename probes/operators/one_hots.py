"""Follows softmaxes to where they meet a one-hot whose classes stand along another axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.operators.normed import SHAPES, TURNS
from probes.operators.terms import SUMS, TIMES
from probes.patch import SOFTMAX
from probes.raised import source_here
from probes.running import names_of, running
from probes.softmaxes.formed import LOG_SOFTMAX, LOGSUMEXP

COMPARED: tuple[Callable[..., Any], ...] = (
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy, F.kl_div),
)
MEANS: tuple[Callable[..., Any], ...] = (torch.mean, Tensor.mean)
DIFFERENCES = {"sub", "rsub", "subtract"}
BY_ENTRY = {  # each entry from the one that stands there
    *("log", "log2", "clamp", "clamp_min", "clamp_max", "add", "radd", "sub", "rsub", "pow", "neg"),
    *("float", "double", "to", "type_as", "contiguous", "clone", "dropout"),
}
MOST = 0.5  # of the places that a one-hot says nothing of, such as ignored ones
CONSTANT = 1e-3  # of the sum of what sums to one: it is the count of those


@dataclass(slots=True, eq=False)
class Along:
    """A softmax. summed: its sum was had along its own axis, which is a constant."""

    op: str
    axis: int
    given: Tensor
    site: str
    source: str | None
    summed: bool = False

    @property
    def size(self) -> int:
        """How many entries compete."""
        return self.given.shape[self.axis]

    def groups(self) -> Tensor:
        """For each entry a number, the same for those that compete with each other."""
        shape = [1 if i == self.axis else n for i, n in enumerate(self.given.shape)]
        groups = torch.arange(self.given.numel() // self.size, device=self.given.device)
        return groups.view(shape).expand(self.given.shape).contiguous()


@dataclass(slots=True, eq=False)
class Met:
    """A softmax that met a one-hot, entry by entry.

    axis: of the one-hot's classes. hot: that one-hot. partial: each class of a sample has several
    sums of one, and not one over all its places. compared: both were compared, and not multiplied.
    picked: what was multiplied was summed over the classes alone. twice: the same scores are
    normalised over the classes as well.
    """

    of: Along
    axis: int
    hot: Tensor
    partial: bool
    compared: bool
    picked: bool = False
    twice: bool = False

    @property
    def is_sure(self) -> bool:
        """Whether what is made of both is of classes, and not of a share of what is spread."""
        return self.compared or self.picked or (self.partial and (self.of.summed or self.twice))

    @property
    def labels(self) -> tuple[Tensor, Tensor]:
        """The class of each place, and where there is one."""
        return self.hot.argmax(self.axis), self.hot.sum(self.axis) > 0


class OneHots(TorchFunctionMode):
    """While it is entered, `met` lists where softmaxes met one-hots along another axis."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.met: list[Met] = []
        self._names = names_of(model)
        self._known = WeakTensorKeyDictionary()  # to its softmax, and how its groups are had
        self._products = WeakTensorKeyDictionary()
        self._over: list[tuple[Tensor, int]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it was given was looked at."""
        given = dict(kwargs or {})
        out = func(*args, **given)
        if isinstance(out, Tensor) and out.requires_grad and args:
            self._look(func, args, given, out)
        return out

    def found(self) -> tuple[Met, ...]:
        """Those that are sure, the first of each softmax's line."""
        for each in self.met:
            each.twice = any(axis == each.axis and _same(given, each) for given, axis in self._over)
        sure = [each for each in self.met if each.is_sure]
        return tuple({(each.of.site, each.of.source): each for each in reversed(sure)}.values())

    def _look(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> None:
        name = getattr(func, "__name__", "").strip("_")
        if func is torch.einsum:
            self._contracted(args)
            return
        first = args[0]
        if not isinstance(first, Tensor):
            return
        if func in SOFTMAX + LOG_SOFTMAX + LOGSUMEXP or func is F.cross_entropy:
            self._born(func, name, args, kwargs, out)
        elif func in TIMES or func in COMPARED or name in DIFFERENCES:
            found = self._meet(args, func not in TIMES)
            if found is not None and func in TIMES:
                self._products[out] = found
        elif func in SUMS + MEANS:
            self._sum(args, kwargs, out, func in SUMS)
        self._carry(func, name, args, kwargs, out)

    def _born(
        self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor
    ) -> None:
        given = args[0].detach()
        axis = args[1] if len(args) > 1 else kwargs.get("dim")
        axis = 1 if func is F.cross_entropy else axis
        if not isinstance(axis, int) or given.ndim < 2 or not given.numel():
            return
        axis %= given.ndim
        site = running(self._names)
        if site is None or func is F.cross_entropy:  # and not every attention's scores
            self._over.append((given, axis))
        if out.shape == given.shape:
            along = Along(name, axis, given, site or "<loss>", source_here())
            self._known[out] = along, along.groups

    def _carry(
        self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor
    ) -> None:
        place = 0 if args[0] in self._known or len(args) < 2 else 1
        if not isinstance(args[place], Tensor) or args[place] not in self._known:
            return
        along, groups = self._known[args[place]]
        others = [e for i, e in enumerate(args) if i != place and isinstance(e, Tensor)]
        if name in BY_ENTRY and out.shape == args[place].shape:
            if name in ("to", "type_as") or all(each.numel() == 1 for each in others):
                self._known[out] = along, groups
        elif name in ("view", "reshape"):
            if not any(isinstance(each, torch.dtype) for each in args):
                shape = out.shape
                self._known[out] = along, lambda: groups().reshape(shape)
        elif name in SHAPES or func in TURNS or (name == "getitem" and _slices(args[1])):
            rest = args[1:]
            self._known[out] = along, lambda: func(groups(), *rest, **kwargs)

    def _meet(self, args: Sequence[Any], compared: bool) -> Met | None:
        pair = args[:2]
        if len(pair) < 2 or not all(isinstance(each, Tensor) for each in pair):
            return None
        for one, hot in (pair, pair[::-1]):
            if one in self._known and hot.shape == one.shape and not hot.requires_grad:
                along, groups = self._known[one][0], self._known[one][1]()
                axis = _crossed(hot, groups)
                if axis is not None:
                    found = Met(along, axis, hot.detach(), _several(hot, groups, axis), compared)
                    self.met.append(found)
                    return found
        return None

    def _sum(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor, is_sum: bool
    ) -> None:
        axes = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
        axes = (axes,) if isinstance(axes, int) else axes
        found: Met | None = self._products.get(args[0])
        if found is not None and isinstance(axes, (tuple, list)):
            found.picked |= [each % args[0].ndim for each in axes] == [found.axis]
        known = self._known.get(args[0])
        if known is not None and out.numel():
            count = args[0].numel() / out.numel() if is_sum else 1.0
            share = out.detach().double() * known[0].size / count
            known[0].summed |= bool(((share - 1).abs() < CONSTANT).all())

    def _contracted(self, args: Sequence[Any]) -> None:
        """An einsum of two tensors with the same letters is such a product, summed."""
        terms, arrow, left = str(args[0]).replace(" ", "").partition("->")
        letters = terms.split(",")
        if not arrow or len(letters) != 2 or letters[0] != letters[1] or len(args) != 3:
            return
        found = self._meet(args[1:], False)
        if found is not None:
            gone = [i for i, letter in enumerate(letters[0]) if letter not in left]
            found.picked = gone == [found.axis]


def _slices(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(each is None or each is Ellipsis or isinstance(each, (int, slice)) for each in parts)


def _crossed(hot: Tensor, groups: Tensor) -> int | None:
    """The axis of a one-hot's classes, where no two of them are of one sum of one.

    None where they are, or where it is no one-hot, or holds at most one of each sum: of pairs.
    """
    if hot.ndim < 2 or not bool(((hot == 0) | (hot == 1)).all()):
        return None
    there = hot.detach().double()
    axes = []
    for axis, length in enumerate(hot.shape):
        sums = there.sum(axis)
        if length > 1 and bool((sums <= 1).all()) and float(sums.mean()) >= MOST:
            axes.append(axis)
    if len(axes) != 1:
        return None
    axis = axes[0]
    if not bool((groups.narrow(axis, 0, 1) != groups.narrow(axis, 1, 1)).all()):
        return None
    sums = torch.zeros(int(groups.max()) + 1, dtype=torch.double, device=hot.device)
    sums.scatter_add_(0, groups.flatten(), there.flatten())
    return axis if bool((sums > 1).any()) else None


def _several(hot: Tensor, groups: Tensor, axis: int) -> bool:
    """Whether each class of a sample has several sums of one; not of copies, such as heads'."""
    for i in range(hot.ndim):
        if bool((hot == hot.narrow(i, 0, 1)).all()):
            hot, groups = hot.narrow(i, 0, 1), groups.narrow(i, 0, 1)
    return len(groups.unique()) > len(hot) * hot.shape[axis]


def _same(given: Tensor, met: Met) -> bool:
    """Whether these are the scores of the softmax, before or after they were cast."""
    own = met.of.given
    return given.shape == own.shape and bool(torch.allclose(given.float(), own.float()))
