"""Draws that pick, order or decide, told from noise that is added: with the lines that draw."""

from __future__ import annotations

import linecache
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.nested import tensors_in
from probes.raised import source_here

WHOLE = {"randint", "randint_like", "randperm", "random"}
EVEN = {"rand", "rand_like", "uniform"}
ORDERS = {"sort", "argsort", "msort", "topk", "argmax", "argmin", "floor", "ceil", "round", "trunc"}
BY_ROW = {"randint", "randint_like", "random", "multinomial", "topk"}
SORTED = {"randperm", "sort", "argsort", "msort"}
COMPARES = {"lt", "le", "gt", "ge", "less", "less_equal", "greater", "greater_equal"}
FILLS = {"masked_fill"}
CUTS = {"getitem", "narrow", "split", "chunk"}
ONE = r"\s*\((?:[^(),]|\([^()]*\))*\)"
HOST = re.compile(
    rf"\b(choice){ONE}|\b(shuffle|permutation|permuted|randint|randrange|integers|getrandbits)\s*\("
    r"|\b(random|rand|uniform)\s*\([^<>]*\)\s*[<>]|[<>]=?\s*[\w.]*\b(random|rand|uniform)\s*\("
)
"""What python's and numpy's generators pick by, in a line of code; not several at once."""


class Picks(TorchFunctionMode):
    """While it is entered, notes the lines of the user's code whose draws pick, of so many samples.

    lines: how often each drew whole numbers or an order, or had an even number compared, sorted or
    rounded. Normal noise picks nothing. spared: those whose chances have a gradient, as of an
    answer that is sampled, and those that take several of many: members of each row, or the first
    of an order, as to estimate from a part what the whole would give.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows
        self.lines: Counter[str] = Counter()
        self.spared: set[str] = set()
        self._orders = WeakTensorKeyDictionary()  # of many: the line that drew them
        self._even = WeakTensorKeyDictionary()  # made of nothing but even numbers: the line

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result, which is its own."""
        given, name = kwargs or {}, getattr(func, "__name__", "").strip("_")
        out = func(*args, **given)
        if name in WHOLE or name == "multinomial":
            self._picked(source_here(), args[:1] if name == "multinomial" else (), name, out)
        elif name in EVEN and isinstance(out, Tensor):
            self._even[out] = source_here()
        else:
            self._follow(name, args, given, out)
        return out

    def _follow(self, name: str, args: Any, given: Mapping[str, Any], out: Any) -> None:
        told = list(tensors_in((args, given)))
        order = self._orders.get(told[0]) if told and name in CUTS else None
        if order is not None and any(each.numel() < told[0].numel() for each in tensors_in(out)):
            self.spared.add(order)
        lines = [self._even.get(each) for each in told]
        line = next((each for each in lines if each is not None), None)
        if line is None:
            return
        alone = all(each is not None for each in lines) or (name in FILLS and lines[0] is not None)
        if name in COMPARES or (alone and (name in ORDERS or _is_whole(out))):
            self._picked(line, told, name, out)
        elif alone:
            for each in tensors_in(out):
                self._even[each] = line

    def _picked(self, line: str | None, chances: Sequence[Tensor], name: str, out: Any) -> None:
        if line is None:
            return
        self.lines[line] += 1
        several = name in BY_ROW and not all(self._is_single(each) for each in tensors_in(out))
        if several or any(each.requires_grad for each in chances):
            self.spared.add(line)
        if name in SORTED:
            for each in tensors_in(out):
                self._orders[each] = line

    def _is_single(self, drawn: Tensor) -> bool:
        """Whether it holds one for all samples, or one for each."""
        return drawn.numel() in (1, self._rows) or (drawn.ndim > 1 and drawn.shape[-1] == 1)


def _is_whole(out: Any) -> bool:
    whole = isinstance(out, Tensor) and not out.is_floating_point() and not out.is_complex()
    return whole and out.dtype is not torch.bool


def picks_by_itself(name: str, line: int) -> bool:
    """Whether a line of code picks by python's or numpy's generator."""
    return HOST.search(linecache.getline(name, line)) is not None
