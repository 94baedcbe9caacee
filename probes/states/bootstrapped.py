"""Targets made of a number of the batch and of what a network gives of what comes next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.nested import tensors_in
from probes.raised import source_here

TIMES = ("mul", "__mul__", "__rmul__", "mul_", "__imul__", "multiply")
ADDS = ("add", "__add__", "__radd__", "add_", "__iadd__")
GATES = ("where", "masked_fill", "masked_fill_", "__setitem__", "index_put", "index_put_")
LESS = ("sub", "__sub__", "rsub", "__rsub__", "sub_", "dist", "subtract")


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A target: `reward` and a constant times what is made of `later`, added at `source`.

    now: what the prediction that it is compared with is made of. All are keys of the batch.
    """

    reward: frozenset[str]
    later: frozenset[str]
    now: frozenset[str]
    source: str | None


@dataclass(frozen=True, slots=True)
class _Known:
    """Of a tensor. keys: of the batch, of which it is made. learned: by parameters, too.

    weight: it is made of parameters alone. less: multiplied by a constant below 1. gated: by what
    the batch says, some of it was put out. sums: (reward, later, source) that it is, or holds.
    """

    keys: frozenset[str] = frozenset()
    learned: bool = False
    weight: bool = False
    less: bool = False
    gated: bool = False
    sums: frozenset[tuple[frozenset[str], frozenset[str], str | None]] = frozenset()

    @property
    def data(self) -> bool:
        """Whether the batch alone says it."""
        return bool(self.keys) and not self.learned


_NOTHING = _Known()


class Bootstraps(TorchFunctionMode):
    """Follows the batch up to sums that are compared with what is learned, and are no part of it.

    A value that is gated by a key of the batch, as by a flag of an end, is not followed on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[Bootstrap] = []
        self._of = WeakTensorKeyDictionary()

    def given(self, batch: Mapping[str, Any]) -> None:
        """The tensors of the batch, by key, are followed from here on."""
        for key, leaf in batch.items():
            if isinstance(leaf, Tensor):
                self._of[leaf] = _Known(frozenset([key]))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result; what it was given is followed."""
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        made = [each for each in tensors_in(out) if isinstance(each, Tensor)]
        if name == "__setitem__" and isinstance(args[0], Tensor):
            made = [args[0]]
        given = [each for each in tensors_in((args, kwargs)) if isinstance(each, Tensor)]
        if made and given:
            self._follow(name, args, kwargs, given, made)
        return out

    def _known(self, tensor: Tensor) -> _Known:
        if isinstance(tensor, nn.Parameter):
            return _Known(learned=True, weight=True)
        found: _Known = self._of.get(tensor, _NOTHING)
        return found

    def _follow(
        self, name: str, args: Any, kwargs: Any, given: list[Tensor], made: list[Tensor]
    ) -> None:
        known = [self._known(each) for each in given]
        keys = frozenset[str]().union(*(each.keys for each in known))
        weight = any(each.weight for each in known)
        if not keys and not weight:
            return
        sums = frozenset().union(*(each.sums for each in known))
        if sums:
            self._compare(name, given, known)
        followed = _Known(
            keys=keys,
            learned=any(each.learned for each in known),
            weight=weight and not keys,
            less=any(each.less for each in known) or _shrinks(name, args),
            gated=any(each.gated for each in known) or _is_gate(name, args, known),
            sums=frozenset() if weight else sums,
        )
        if name in ADDS and len(known) == 2:
            followed = self._added(followed, given, known, kwargs)
        for each in made:
            if not isinstance(each, nn.Parameter):
                self._of[each] = followed

    def _added(
        self, followed: _Known, given: list[Tensor], known: list[_Known], kwargs: Any
    ) -> _Known:
        """With the sum noted, where it is one of a number of the batch and of a value."""
        pairs = (known, known[::-1]) if all(each.ndim for each in given) else ()
        for reward, later in pairs:
            less = later.less or _is_share(kwargs.get("alpha"))
            value = later.learned and later.keys and less and not later.gated
            if reward.data and not reward.gated and value:
                one = (reward.keys, later.keys, source_here())
                return _Known(followed.keys, followed.learned, sums=frozenset([one]))
        return followed

    def _compare(self, name: str, given: Iterable[Tensor], known: list[_Known]) -> None:
        """A sum without a way back that is held against what has one was a target."""
        if name not in LESS and "loss" not in name:
            return
        pairs = list(zip(given, known, strict=True))
        taught = [each for t, each in pairs if t.requires_grad and each.keys and not each.sums]
        held = [one for t, each in pairs if not t.requires_grad for one in each.sums]
        for reward, later, source in held:
            for each in taught:
                found = Bootstrap(reward, later - each.keys, each.keys, source)
                if found.later and each.learned and found not in self.targets:
                    self.targets.append(found)


def _shrinks(name: str, args: Any) -> bool:
    return name in TIMES and len(args) == 2 and any(_is_share(each) for each in args)


def _is_share(value: Any) -> bool:
    """Whether it is a constant between 0 and 1."""
    if isinstance(value, Tensor) and value.ndim == 0 and not value.requires_grad:
        value = float(value) if value.device.type != "meta" else 0.0
    return isinstance(value, float) and 0 < value < 1


def _is_gate(name: str, args: Any, known: list[_Known]) -> bool:
    """Whether a key of the batch says what is left of a value, or at which places."""
    if name in GATES:
        return sum(bool(each.keys) for each in known) > 1
    if name in TIMES:
        return len(known) == 2 and known[0].learned != known[1].learned and all(
            each.keys for each in known
        )  # fmt: skip
    if name == "__getitem__" and len(args) == 2:
        at = args[1]
        single = isinstance(at, Tensor) and at.ndim > 0
        return single or any(each.dtype == torch.bool for each in tensors_in(at))
    return False
