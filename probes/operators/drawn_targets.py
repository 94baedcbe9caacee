"""Dropout at work in what is not trained, and whether the loss has it for an input or a target."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.bus import hook_gradient
from probes.nested import tensors_in
from probes.raised import source_here
from probes.running import names_of, running

KINDS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
DROPS = dict.fromkeys(KINDS, (1, "p", 2)) | {
    "scaled_dot_product_attention": (4, "dropout_p", None),
    "multi_head_attention_forward": (10, "dropout_p", 13),
}
"""Where a function has its rate, as an argument and by name, and where whether it trains."""
COMPARED = ("sub", "__sub__", "rsub", "__rsub__", "dist", "cdist", "pairwise_distance")
SCORED = ("kl_div", "cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits")
WEIGHED = ("mul", "__mul__", "__rmul__")


@dataclass(eq=False)
class Drop:
    """A call that dropped a share of what frozen parameters gave.

    rate: the share. site: the module at work; None around the model. part: the outermost module
    around it without a trained parameter. source: the line that calls that. behind: ids of the
    parameters that it was computed by. asked: a trained parameter was applied to it, an input.
    compared: what it became met a tensor with a gradient as a target does, and not as a summand or
    a score. reaches: the loss hangs on what came of both. again: it was computed from the same
    more than once, as one does to draw from it.
    """

    rate: float
    site: str | None
    part: str | None
    source: str | None
    behind: frozenset[int]
    asked: bool = False
    compared: bool = False
    reaches: bool = False
    again: bool = False

    @property
    def is_target(self) -> bool:
        """Whether the loss compares with it, and no layer that learns has read it."""
        return self.reaches and self.compared and not self.asked


@dataclass(frozen=True, eq=False)
class _Known:
    """Of a tensor. behind: parameters it is computed by. weight: of trained ones alone."""

    behind: frozenset[int] = frozenset()
    drops: frozenset[Drop] = frozenset()
    weight: bool = False


_NOTHING = _Known()


class DrawnTargets(TorchFunctionMode):
    """Follows what is dropped in frozen parts up to where it meets what has a gradient."""

    def __init__(self, model: nn.Module, trained: Iterable[str]) -> None:
        super().__init__()
        own = dict(model.named_parameters())
        self.drops: list[Drop] = []
        self._trained = {id(own[name]): own[name] for name in trained if name in own}
        self._learning = tuple(trained)
        self._names, self._known = names_of(model), WeakTensorKeyDictionary()
        self._met: dict[int, tuple[nn.Parameter, Tensor]] = {}
        self._read: dict[tuple[int, int], Tensor] = {}
        self._again: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it was given is followed."""
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        made = [each for each in tensors_in(out) if type(each) is Tensor]
        if made:
            name = getattr(func, "__name__", "")
            self._follow(name, list(tensors_in((args, kwargs))), _rate(name, args, kwargs), made)
        return out

    def standing(self, drop: Drop) -> bool:
        """Whether none of the parameters behind it was moved since it was first met, or learns."""
        return all(p.grad is None and torch.equal(p, was) for p, was in self._behind(drop))

    def is_twin(self, drop: Drop) -> bool:
        """Whether it began as a copy of what is trained: a table of its weights is the same."""
        tables = [was for _, was in self._behind(drop) if was.ndim > 1 and bool(was.std() > 0)]
        own = [each.detach() for each in self._trained.values()]
        return any(
            one.shape == two.shape and torch.equal(one, two) for one in tables for two in own
        )

    def _behind(self, drop: Drop) -> list[tuple[nn.Parameter, Tensor]]:
        return [self._met[each] for each in drop.behind]

    def _follow(self, name: str, given: list[Tensor], rate: float, made: list[Tensor]) -> None:
        known = [self._of(each) for each in given]
        behind = frozenset[int]().union(*(each.behind for each in known))
        drops = frozenset[Drop]().union(*(each.drops for each in known))
        has_way_back = any(each.requires_grad for each in made)
        if any(each.weight and t.numel() > 1 for t, each in zip(given, known, strict=True)):
            for drop in drops:
                drop.asked = True
        elif drops and has_way_back:
            self._meet(name, given, made)
        self._note_again(given)
        if rate > 0 and behind and not behind & self._trained.keys():
            self.drops.append(self._drop(rate, behind))
            drops |= {self.drops[-1]}
        weight = bool(known) and all(each.weight for each in known)
        if behind or drops:
            for each in made:
                self._known[each] = _Known(behind, drops, weight)

    def _of(self, tensor: Tensor) -> _Known:
        if not isinstance(tensor, nn.Parameter):
            found: _Known = self._known.get(tensor, _NOTHING)
            return found
        number = id(tensor)
        if number not in self._met:
            start = tensor if number in self._trained else tensor.detach().clone()
            self._met[number] = tensor, start
        return _Known(frozenset([number]), weight=number in self._trained)

    def _drop(self, rate: float, behind: frozenset[int]) -> Drop:
        site, again = running(self._names), bool(behind & self._again)
        around = [] if site in ("model", "<model>") else _around(site)
        part = next((each for each in around if not self._learns(each)), None)
        return Drop(rate, site, part, self._called(part), behind, again=again)

    def _learns(self, part: str) -> bool:
        return any(name.startswith(f"{part}.") for name in self._learning)

    def _called(self, part: str | None) -> str | None:
        """The user's line that called the part; the one at work where there is none."""
        frame: FrameType | None = sys._getframe(1)
        outer = frame
        while frame is not None and part is not None:
            name = self._names.get(id(frame.f_locals.get("self")), "")
            outer = frame.f_back if f"{name}.".startswith(f"{part}.") else outer
            frame = frame.f_back
        return source_here(outer)

    def _meet(self, name: str, given: list[Tensor], made: list[Tensor]) -> None:
        targets = [each for each in given if self._of(each).drops and not each.requires_grad]
        drops = frozenset[Drop]().union(*(self._of(each).drops for each in targets))
        compared = name in COMPARED + SCORED or "loss" in name
        compared |= name in WEIGHED and all(bool((each >= 0).all()) for each in targets)

        def arrived(grad: Tensor | None) -> None:
            for each in drops:
                each.reaches = each.reaches or grad is not None

        for each in drops:
            each.compared = each.compared or compared
        for out in made if drops else ():
            if out.requires_grad:
                hook_gradient(out, arrived)

    def _note_again(self, given: list[Tensor]) -> None:
        """Tables that are given the very same tensor once more."""
        tables = [each for each in given if isinstance(each, nn.Parameter) and each.ndim > 1]
        data = {id(t): t for t in given if not self._of(t).behind} if tables else {}
        for table in tables:
            pairs = {(id(table), number): each for number, each in data.items()}
            if pairs.keys() & self._read.keys():
                self._again.add(id(table))
            self._read |= pairs  # which keeps the ids their own


def _around(site: str | None) -> list[str]:
    """The modules around a site, with itself, from the outermost; not the model."""
    names = site.split(".") if site else []
    return [".".join(names[: end + 1]) for end in range(len(names))]


def _rate(name: str, args: Any, kwargs: Mapping[str, Any]) -> float:
    """The share that a call drops; 0 where it drops nothing."""
    if name not in DROPS:
        return 0.0
    at, key, training = DROPS[name]
    rate = args[at] if len(args) > at else kwargs.get(key, 0.0)
    at_work = True if training is None else _given(args, kwargs, training)
    return float(rate) if at_work and isinstance(rate, int | float) else 0.0


def _given(args: Any, kwargs: Mapping[str, Any], at: int) -> bool:
    return bool(args[at] if len(args) > at else kwargs.get("training", True))
