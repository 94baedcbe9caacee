"""Differences of one running sum that are divided by one more than the entries they sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.raised import source_here
from probes.reading.indexing import GATHERS, picked
from probes.running import names_of, running

DIVISIONS = {"div", "truediv", "true_divide", "divide"}
SCALES = {*DIVISIONS, "mul", "rmul", "multiply"}
DIFFERENCES = {"sub", "subtract"}
ADDITIONS = {"add", "radd", "iadd"}
CASTS = {"float", "double", "half", "to", "type_as", "contiguous", "clone"}
JOINS = (torch.cat, torch.concat, torch.concatenate)
ADJOIN = 0.5  # of spans that begin where the one before ends: their ends are no entries of theirs


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What was picked, and where: integers in the shape of what was had."""

    at: Tensor
    run: int | None  # which running sum it was picked of; None of anything else
    led: bool = False  # that one begins with a zero


@dataclass(frozen=True, slots=True, eq=False)
class Between:
    """A difference of one running sum at two places, in the shape of the difference."""

    first: Tensor
    last: Tensor
    led: bool
    source: str | None


@dataclass(slots=True, eq=False)
class Short:
    """Such a difference that was divided. width: by what. mended: what it misses was added after.

    first, last: where the running sum was taken off, and read. led: a zero stands in front of it,
    so that it sums from the first on, and the last is not among those; else the reverse.
    """

    first: Tensor
    last: Tensor
    width: Tensor
    led: bool
    site: str
    source: str | None
    mended: bool = False

    @property
    def missing(self) -> Tensor:
        """The places that are counted and not summed."""
        return self.last if self.led else self.first

    @property
    def is_by_one(self) -> bool:
        """Whether each is divided by one more than it sums, and they do not adjoin."""
        entries = self.last - self.first
        if not bool((entries >= 0).all()) or not bool((self.width == entries + 1).all()):
            return False
        return not self.mended and not self._adjoins()

    def _adjoins(self) -> bool:
        for axis, length in enumerate(self.first.shape):
            ends = self.last.narrow(axis, 0, length - 1), self.last.narrow(axis, 1, length - 1)
            starts, moved = self.first.narrow(axis, 1, length - 1), ends[0] != ends[1]
            if bool(moved.any()) and float((ends[0] == starts)[moved].double().mean()) >= ADJOIN:
                return True
        return False


class PrefixSums(TorchFunctionMode):
    """While it is entered, differences of running sums and their divisors are followed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = names_of(model)
        self._runs = WeakTensorKeyDictionary()  # to number and axis
        self._taken = WeakTensorKeyDictionary()
        self._between = WeakTensorKeyDictionary()
        self._quotients = WeakTensorKeyDictionary()
        self._count = 0
        self._found: list[Short] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it was given was looked at."""
        given = dict(kwargs or {})
        out = func(*args, **given)
        name = getattr(func, "__name__", "")
        if name == "__setitem__" and isinstance(args[2], Tensor) and args[2] in self._runs:
            self._runs[args[0]] = self._runs[args[2]]
        elif isinstance(out, Tensor) and out.requires_grad and args:
            self._look(func, name, args, given, out)
        return out

    def found(self) -> tuple[Short, ...]:
        """The first of each line of which all are short by one, where widths differ."""
        lines: dict[tuple[str, str | None], list[Short]] = {}
        for each in self._found:
            lines.setdefault((each.site, each.source), []).append(each)
        return tuple(
            found[0]
            for found in lines.values()
            if all(each.is_by_one for each in found)
            and len(torch.cat([each.width.flatten() for each in found]).unique()) > 1
        )

    def _look(
        self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor
    ) -> None:
        plain = name.strip("_")
        if plain == "cumsum":
            axis = args[1] if len(args) > 1 else kwargs.get("dim")
            if isinstance(axis, int):
                self._count += 1
                self._runs[out] = self._count, axis % out.ndim
        elif not self._count:
            return
        elif func in JOINS:
            self._join(args[0], out)
        elif func is F.pad and args[0] in self._runs:
            self._runs[out] = self._runs[args[0]]
        elif name in GATHERS or name == "__getitem__":
            self._take(name, args, kwargs, out)
        elif plain in DIFFERENCES and len(args) > 1:
            self._subtract(args[0], args[1], out)
        else:
            self._work(plain, args, out)

    def _join(self, parts: Any, out: Tensor) -> None:
        """A running sum with zeros beside it is one."""
        known = [each for each in parts if each in self._runs]
        if len(known) == 1 and all(each is known[0] or not bool(each.any()) for each in parts):
            self._runs[out] = self._runs[known[0]]

    def _take(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> None:
        found = picked(name, args, kwargs)
        if found is None or not out.numel():
            return
        axis, index, _ = found
        after = 0 if index.ndim == args[0].ndim else args[0].ndim - axis - 1
        at = _spread(index, after, out.shape)
        run = self._runs.get(args[0])
        if at is not None and run is not None and run[1] == axis:
            self._taken[out] = Taken(at, run[0], not bool(args[0].select(axis, 0).any()))
        elif at is not None and run is None:
            self._taken[out] = Taken(at, None)

    def _subtract(self, one: Any, two: Any, out: Tensor) -> None:
        last, first = (
            self._taken.get(each) if isinstance(each, Tensor) else None for each in (one, two)
        )
        if last is None or first is None or last.run is None or last.run != first.run:
            return
        if last.at.shape == first.at.shape == out.shape:
            self._between[out] = Between(first.at, last.at, last.led and first.led, source_here())

    def _work(self, name: str, args: Sequence[Any], out: Tensor) -> None:
        """Casts, divisions, and what is added to a quotient."""
        for known in (self._runs, self._taken, self._between):
            if name in CASTS and args[0] in known and out.shape == args[0].shape:
                known[out] = known[args[0]]
        if len(args) < 2:
            return
        if name in DIVISIONS and args[0] in self._between:
            self._divide(self._between[args[0]], args[1], out)
        elif name in SCALES and args[0] in self._taken and out.shape == args[0].shape:
            self._taken[out] = self._taken[args[0]]
        elif name in ADDITIONS:
            for one, two in (args[:2], args[1::-1]):
                self._mend(one, two)

    def _divide(self, found: Between, by: Any, out: Tensor) -> None:
        if out.shape != found.first.shape:
            return
        width = torch.as_tensor(by, device=out.device).detach().double().expand(out.shape)
        site = running(self._names) or "<loss>"
        short = Short(found.first, found.last, width, found.led, site, found.source)
        self._quotients[out] = short
        self._found.append(short)

    def _mend(self, one: Any, two: Any) -> None:
        """What stands at the missing places is added to the quotient."""
        if not isinstance(one, Tensor) or not isinstance(two, Tensor):
            return
        short: Short | None = self._quotients.get(one)
        taken: Taken | None = self._taken.get(two)
        if short is not None and taken is not None and taken.at.shape == short.missing.shape:
            short.mended |= torch.equal(taken.at, short.missing)


def _spread(index: Tensor, after: int, shape: torch.Size) -> Tensor | None:
    """Integers in the shape of what was had by them. after: how many axes follow theirs."""
    whole = index.view(*index.shape, *[1] * after)
    if whole.ndim > len(shape):
        return None
    pairs = zip(whole.shape[::-1], shape[::-1], strict=False)
    return whole.expand(shape) if all(one in (1, two) for one, two in pairs) else None
