"""Losses of the form: the log of a sum over all paths, minus the score of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.nested import tensors_in
from probes.raised import source_here
from probes.running import names_of, running

SUMS = ("logsumexp", "logaddexp", "logcumsumexp")
SAME = {
    *("sum", "mean", "squeeze", "unsqueeze", "view", "reshape", "flatten", "__getitem__", "to"),
    *(
        "float",
        "double",
        "clone",
        "stack",
        "cat",
        "where",
        "masked_select",
        "contiguous",
        "type_as",
    ),
    *("add", "__add__", "__radd__", "add_", "__iadd__", "nansum", "index_select", "expand"),
}
SCALE = {"mul", "__mul__", "__rmul__", "div", "__div__", "true_divide", "__truediv__"}
LESS = {"sub", "__sub__"}
MORE = {"add", "__add__"}
PICKS = {"__getitem__", "gather", "index_select", "take_along_dim", "take"}
PRUNES = {"topk", "sort", "argsort"}
DEEP = 2  # sums of logs within each other: a recursion, and no softmax


@dataclass(eq=False)
class Excess:
    """A log of a sum, `whole`, from which `path` is taken, with what the module and line are.

    inner: the difference goes into another exponential, so that it is none of the loss.
    """

    whole: Tensor
    path: Tensor
    site: str | None
    source: str | None
    inner: bool = False


@dataclass(frozen=True, eq=False)
class Pick:
    """Numbers were taken out of a tensor by an index; kept: that, or what it is a view of."""

    kept: Tensor
    source: str | None


@dataclass(frozen=True, eq=False)
class _Known:
    """Of a tensor. depth: sums of logs within each other. kind: `exp`, `sum` of that, `neg`.

    whole: it is such a log, or a sum of them, and no multiple. signed: the excesses that it hangs
    on linearly, by their sign.
    """

    depth: int = 0
    kind: str = ""
    whole: bool = False
    pruned: bool = False
    signed: frozenset[tuple[Excess, int]] = frozenset()


_NOTHING = _Known()


class Partitions(TorchFunctionMode):
    """Follows logs of sums of exponentials, and what is taken from them, to the loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.picks: list[Pick] = []
        self._names, self._known = names_of(model), WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it is has been noted."""
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        name, given = getattr(func, "__name__", ""), list(tensors_in((args, kwargs)))
        for made in tensors_in(out):
            if made.is_floating_point():
                known = self._made(name, given, args, made)
                if known is not _NOTHING:
                    self._known[made] = known
        return out

    def excesses(self, loss: Tensor) -> list[Excess]:
        """Those that the loss is a weighted sum of, and is to make small."""
        signed = self._of(loss).signed
        return [] if any(sign < 0 for _, sign in signed) else [e for e, _ in signed if not e.inner]

    def _of(self, tensor: Any) -> _Known:
        found: _Known = (
            self._known.get(tensor, _NOTHING) if isinstance(tensor, Tensor) else _NOTHING
        )
        return found

    def _made(self, name: str, given: list[Tensor], args: Any, made: Tensor) -> _Known:
        known = [self._of(each) for each in given]
        depth, kinds = max((k.depth for k in known), default=0), {k.kind for k in known}
        pruned = name in PRUNES or any(each.pruned for each in known)
        if name in PICKS and _is_pick(given):
            base = given[0]._base
            self.picks.append(Pick(given[0] if base is None else base, source_here()))
        if name in SUMS or name in ("exp", "softmax", "log_softmax"):
            for each, _ in frozenset[Any]().union(*(k.signed for k in known)):
                each.inner = True
        if name in SUMS or (name == "log" and "sum" in kinds):
            return _Known(depth + 1, whole=True, pruned=pruned)
        kind = {"exp": "exp", "neg": "neg", "__neg__": "neg"}.get(name, "")
        if name in SAME | SCALE and kinds & {"exp", "sum"}:
            kind = "sum" if name == "sum" or "sum" in kinds else "exp"
        signed = self._signed(name, args, given, made)
        if not depth and not kind and not signed and not pruned:
            return _NOTHING
        whole = name in SAME and any(each.whole for each in known)
        return _Known(depth, kind, whole, pruned, signed)

    def _signed(
        self, name: str, args: Any, given: list[Tensor], made: Tensor
    ) -> frozenset[tuple[Excess, int]]:
        found = frozenset[tuple[Excess, int]]().union(*(self._of(each).signed for each in given))
        flipped = frozenset((each, -sign) for each, sign in found)
        if (new := self._excess(name, args, made)) is not None:
            return frozenset([new])
        if name in SAME:
            return found
        if name in ("neg", "__neg__"):
            return flipped
        if name in LESS and len(args) > 1:
            return self._of(args[0]).signed | frozenset(
                (each, -sign) for each, sign in self._of(args[1]).signed
            )
        if name in SCALE and len(args) > 1:
            return _scaled(found, flipped, args[:2], self._of(args[0]).signed)
        return frozenset()

    def _excess(self, name: str, args: Any, made: Tensor) -> tuple[Excess, int] | None:
        if name not in LESS | MORE or len(args) < 2 or not made.requires_grad:
            return None
        one, two = args[:2]
        sign = 1
        if self._of(one).depth < self._of(two).depth:
            one, two, sign = two, one, -1
        known = self._of(one)
        if not isinstance(two, Tensor) or not isinstance(one, Tensor) or not two.requires_grad:
            return None
        if known.depth < DEEP or self._of(two).depth or known.pruned or not known.whole:
            return None
        if name in MORE:
            if self._of(two).kind != "neg":
                return None
            sign, two = 1, -two
        return Excess(one, two, running(self._names), source_here()), sign


def _is_pick(given: list[Tensor]) -> bool:
    by_number = [each for each in given[1:] if each.dtype in (torch.int64, torch.int32)]
    return bool(by_number) and given[0].requires_grad


def _scaled(
    found: frozenset[tuple[Excess, int]],
    flipped: frozenset[tuple[Excess, int]],
    args: Any,
    first: frozenset[tuple[Excess, int]],
) -> frozenset[tuple[Excess, int]]:
    """What is left where one factor is a number, or has no gradient, by its sign."""
    other = args[1] if first else args[0]
    values = torch.as_tensor(other)
    if values.requires_grad:
        return frozenset()
    if bool((values >= 0).all()):
        return found
    return flipped if bool((values <= 0).all()) else frozenset()
