"""Sees normal draws by learned numbers, and hands on what is left of them without a gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.raised import source_here

NOISE = frozenset({torch.randn, torch.randn_like, torch.normal, Tensor.normal_})
CONSTANT = frozenset({torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like})
TIMES = frozenset({"mul", "mul_", "__mul__", "__rmul__", "multiply", "matmul", "__matmul__", "mv"})
PLUS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__", "sub", "__sub__"})


@dataclass(eq=False)
class Drawn:
    """A draw. by: the mean's side, and the scale's; fell: where it is read without a gradient.

    out: what fell, with its gradient where it has one. is_read: by what has a gradient, as it is.
    """

    by: tuple[tuple[Tensor, ...], ...]
    out: Tensor
    source: str | None
    is_normal: bool  # `torch.normal`'s, which passes no gradient
    fell: list[Tensor] = field(default_factory=list)
    is_read: bool = False


@dataclass(frozen=True, slots=True)
class _Told:
    """What is known of a tensor. kept: itself, so that its id stays its own."""

    kept: Tensor
    roots: tuple[Tensor, ...] = ()  # with a gradient, that it was made of where none is recorded
    is_noise: bool = False
    scale: tuple[Tensor, ...] = ()  # that noise was multiplied with
    drawn: tuple[Drawn, ...] = ()


class CutDraws(TorchFunctionMode):
    """Lists the draws. What is cut off of anything is a leaf where it meets what has a gradient.

    Numbers that are made of whole ones and of truths, as from labels, are asked for a gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Drawn] = []
        self._told: dict[int, _Told] = {}
        self._leaves: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have."""
        kwargs = kwargs or {}
        given = list(_tensors([*args, *kwargs.values()]))
        told = [self._of(each) for each in given]
        if torch.is_grad_enabled() and any(each.requires_grad for each in given):
            args, kwargs = self._swapped(args), self._swapped(kwargs)
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and _is_real(out) and all(out is not each for each in given):
            is_learned = any(each.roots for each in told)
            if func is torch.normal and is_learned:
                out = out.detach()  # its gradient is zero
            elif not is_learned and not out.requires_grad and not all(map(_is_real, given)):
                out = out.requires_grad_().clone()
        for each in _tensors([out]):
            self._note(func, each, told)
        return out

    def _of(self, tensor: Tensor) -> _Told:
        told = self._told.get(id(tensor), _Told(tensor))
        if not tensor.requires_grad or told.roots:
            return told
        base = tensor._base
        root = base if tensor.grad_fn is None and base is not None else tensor
        return _Told(tensor, (root,), told.is_noise, told.scale, told.drawn)

    def _note(self, func: Any, out: Tensor, told: list[_Told]) -> None:
        """What is known of what came out, by what is known of what went in."""
        name = getattr(func, "__name__", "")
        if not _is_real(out) or name.startswith("new_") or func in CONSTANT:
            return
        roots = tuple({id(root): root for each in told for root in each.roots}.values())
        noise = [each for each in told if each.is_noise]
        plain = [each for each in told if each.roots and not each.is_noise and not each.scale]
        scaled = [each for each in told if each.scale]
        drawn = tuple(dict.fromkeys(each for one in told for each in one.drawn))
        is_noise = False
        scale: tuple[Tensor, ...] = ()
        if func in NOISE and (func is not torch.normal or not roots):
            is_noise, roots, drawn = True, (), ()
        elif func is torch.normal:
            drawn = (self._drawn(out, (roots,), True),)
        elif func is torch.addcmul and noise and len(plain) == 2:
            drawn = (self._drawn(out, tuple(each.roots for each in plain), False),)
        elif noise and name in TIMES and plain:
            scale = tuple(root for each in plain for root in each.roots)
        elif noise and len(noise) == len(told):
            is_noise = True
        elif scaled and name in PLUS and plain:
            sides = tuple(root for each in plain for root in each.roots), scaled[0].scale
            drawn = (self._drawn(out, sides, False),)
        elif len(scaled) == len(told) == 1:
            scale = scaled[0].scale
        kept = () if out.requires_grad and out.grad_fn is not None else roots
        self._told[id(out)] = _Told(out, kept, is_noise, scale, drawn)

    def _drawn(self, out: Tensor, by: tuple[tuple[Tensor, ...], ...], is_normal: bool) -> Drawn:
        self.found.append(Drawn(by, out, source_here(), is_normal))
        return self.found[-1]

    def _swapped(self, value: Any) -> Any:
        """The same with leaves in place of what is cut off."""
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return type(value)(self._swapped(each) for each in value)
        if isinstance(value, dict):
            return {key: self._swapped(each) for key, each in value.items()}
        if not isinstance(value, Tensor) or value.requires_grad:
            return value
        told = self._told.get(id(value))
        return value if told is None or not told.roots else self._leaf(value, told)

    def _leaf(self, value: Tensor, told: _Told) -> Tensor:
        leaf = self._leaves.get(id(value))
        if leaf is None:
            leaf = self._leaves[id(value)] = value.detach().requires_grad_(True)
            for each in told.drawn:
                each.fell.append(leaf)
                each.is_read = each.is_read or value is each.out
        return leaf


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def _tensors(values: list[Any]) -> Iterator[Tensor]:
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif type(each) in (list, tuple):
            yield from _tensors(list(each))
