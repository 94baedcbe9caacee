"""Numbers of a whole window, such as a mean over its places, that are made without parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.nested import tensors_in
from probes.raised import source_here
from probes.running import names_of, running

REDUCTIONS = {
    *("mean", "sum", "std", "var", "std_mean", "var_mean", "nanmean", "nansum", "norm"),
    *("vector_norm", "amax", "amin", "aminmax", "max", "min", "median", "nanmedian", "quantile"),
    *("nanquantile", "logsumexp"),
}
LEAST = 4  # entries of an axis that may be one of places


@dataclass(eq=False)
class OverPlaces:
    """What a reduction gave over an axis of numbers that come of the leaf alone.

    meets: it, or what comes of it alone, is taken together with numbers by place, as what these are
    divided by.
    """

    name: str
    values: tuple[Tensor, ...]
    site: str | None
    source: str | None
    meets: bool = False


class Windows(TorchFunctionMode):
    """While it is entered, `found` lists what is reduced of a leaf without any parameter.

    What is cut off from gradients, as by `detach`, stays known. holds: reductions give constants.
    """

    def __init__(self, model: nn.Module, leaf: Tensor, holds: bool = False) -> None:
        super().__init__()
        self.found: list[OverPlaces] = []
        self._names, self._leaf, self._holds = names_of(model), leaf, holds
        self._known: dict[int, tuple[Tensor, frozenset[int] | None]] = {id(leaf): (leaf, None)}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it was given was looked at."""
        kwargs = dict(kwargs or {})
        given = list(tensors_in((args, kwargs)))
        mine = [each for each in given if id(each) in self._known]
        if not mine or not all(self._is_plain(each) for each in given):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        with torch.enable_grad():
            out = args[0].view_as(args[0]) if name == "detach" else func(*args, **kwargs)
        results = [each for each in tensors_in(out) if each.requires_grad]
        if name == "setitem":
            results = [args[0]]
        of = [self._known[id(each)][1] for each in mine]
        if results and name in REDUCTIONS and None in of and _loses_places(mine[0], results[0]):
            return self._reduced(name, out, results)
        whole = [each for each in of if each is not None]
        origin = frozenset[int]().union(*whole)
        by_place = None in of
        for index in origin if by_place else ():
            self.found[index].meets = True
        for each in results:
            self._known[id(each)] = each, None if by_place else origin
        return out

    def _is_plain(self, tensor: Tensor) -> bool:
        """Whether it comes of the leaf alone, or is a constant."""
        if id(tensor) in self._known:
            return True
        return not tensor.requires_grad and not isinstance(tensor, nn.Parameter)

    def _reduced(self, name: str, out: Any, results: Sequence[Tensor]) -> Any:
        if self._holds:
            return _constant(out)
        index = frozenset((len(self.found),))
        found = OverPlaces(name, tuple(results), running(self._names), source_here())
        self.found.append(found)
        for each in results:
            self._known[id(each)] = each, index
        return out


def _loses_places(given: Tensor, out: Tensor) -> bool:
    """Whether an axis of some length, but for that of samples, is gone or is one long."""
    if out.numel() * LEAST > given.numel() or out.shape[:1] != given.shape[:1]:
        return False
    if out.ndim == given.ndim:
        lost = [i for i, n in enumerate(given.shape) if n > 1 and out.shape[i] == 1]
        return any(i > 0 and given.shape[i] >= LEAST for i in lost)
    return given.ndim > 1


def _constant(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.detach()
    return type(out)([each.detach() for each in out]) if isinstance(out, tuple) else out
