"""What a step does with the results of softmax and sigmoid: which functions they are given to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.bus import hook_gradient
from probes.patch import CARRY, DIFFERENCES, LOGS, LOGS_1P, NEGATIVES, SIGMOID, SOFTMAX
from probes.raised import source_here
from probes.running import names_of, running

LOG_SOFTMAX = (F.log_softmax, torch.log_softmax, Tensor.log_softmax, torch.special.log_softmax)
LOGSUMEXP = (torch.logsumexp, Tensor.logsumexp, torch.special.logsumexp)
LOGSIGMOID = (F.logsigmoid,)
LOSSES = (
    F.cross_entropy,
    F.nll_loss,
    F.binary_cross_entropy_with_logits,
    F.multilabel_soft_margin_loss,
    F.soft_margin_loss,
    F.kl_div,
    F.ctc_loss,
    F.poisson_nll_loss,
)
EXP = (torch.exp, Tensor.exp, Tensor.exp_, torch.special.exp2, torch.exp2, Tensor.exp2)
SAME = {  # the same numbers, all of them
    *("reshape", "flatten", "squeeze", "unsqueeze", "transpose", "permute", "t", "clone"),
    *("movedim", "swapaxes", "view", "contiguous", "float", "double", "to", "type_as", "mT", "T"),
}
ADDED = {"add", "clamp", "clamp_min"}  # such as a small constant that keeps it above zero


@dataclass(eq=False)
class Use:
    """A function that was given a softmax's or sigmoid's result, or took one itself.

    name: the function's. of: what its first argument comes from: `softmax`, `log_softmax`,
    `sigmoid`, `1 - sigmoid`, `exp`, `softplus`, `linear` or nothing. target: the same of its
    second. given: its first argument. dim: its axis, where it has one. site: the module at work;
    None around the model.
    """

    name: str
    of: str | None
    target: str | None
    given: Tensor
    dim: int | None
    site: str | None
    source: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    reaches: bool = False


class Formed(TorchFunctionMode):
    """Follows what softmaxes and sigmoids give in a step, and notes where it goes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.uses: list[Use] = []
        self._names = names_of(model)
        self._known = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result; what it was given was looked at."""
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        given = [*args[:2], *[kwargs[k] for k in ("input", "target", "log_probs") if k in kwargs]]
        tensors = [each for each in given if isinstance(each, Tensor)]
        if tensors and isinstance(out, Tensor):
            self._look(func, tensors, args, kwargs, out)
        return out

    def _look(
        self,
        func: Any,
        tensors: Sequence[Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        out: Tensor,
    ) -> None:
        first, of = tensors[0], self._of(tensors[0])
        name = getattr(func, "__name__", "").strip("_")
        if func in SOFTMAX + LOG_SOFTMAX + LOGSUMEXP + LOSSES or (
            of is not None and (func in LOGS + LOGS_1P or name in ("gather", "take_along_dim"))
        ):
            target = self._of(tensors[1]) if len(tensors) > 1 else None
            self._note(func, name, first, of, target, args, kwargs, out)
        after = _after(func, name, of, args, first, out)
        if after is not None:
            self._known[out] = out._version, after

    def _of(self, tensor: Tensor) -> str | None:
        found = self._known.get(tensor)
        kept: str | None = found[1] if found is not None and found[0] == tensor._version else None
        return kept

    def _note(
        self,
        func: Any,
        name: str,
        first: Tensor,
        of: str | None,
        target: str | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        out: Tensor,
    ) -> None:
        if not out.requires_grad:
            return
        use = Use(
            name=name,
            of=of,
            target=target,
            given=first.detach(),
            dim=_dim(func, args, kwargs, first),
            site=running(self._names),
            source=source_here(),
            settings=_settings(func, args, kwargs),
        )
        self.uses.append(use)

        def arrived(grad: Tensor | None) -> None:
            use.reaches = use.reaches or grad is not None

        hook_gradient(out, arrived)


def _settings(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    given = {k: v for k, v in kwargs.items() if not isinstance(v, Tensor)}
    if func is F.poisson_nll_loss and len(args) > 2:
        given["log_input"] = args[2]
    return given


def _after(
    func: Any, name: str, of: str | None, args: Sequence[Any], first: Tensor, out: Tensor
) -> str | None:
    """What the result is, where that is known."""
    for functions, kind in _MAKE:
        if func in functions:
            return kind
    if of == "sigmoid" and func in DIFFERENCES and args[1:2] in ((1,), (1.0,)):
        return "1 - sigmoid"
    if of == "sigmoid" and func in NEGATIVES:
        return "-sigmoid"
    if of in ("exp", "softplus") and name in ADDED and out.shape == first.shape:
        return of
    if of is not None and name in SAME and out.numel() == first.numel():
        return of
    if of in ("softmax", "sigmoid", "1 - sigmoid") and func in CARRY:
        return of
    return None


_MAKE: tuple[tuple[tuple[Callable[..., Any], ...], str], ...] = (
    (SOFTMAX, "softmax"),
    (LOG_SOFTMAX, "log_softmax"),
    (SIGMOID, "sigmoid"),
    (LOGSIGMOID, "log_sigmoid"),
    (EXP, "exp"),
    ((F.softplus,), "softplus"),
    ((F.linear,), "linear"),
)


def _dim(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], first: Tensor) -> int | None:
    if func in LOSSES:
        return None
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    if dim is None and func in SOFTMAX + LOG_SOFTMAX:  # as torch takes it, with a warning
        dim = 0 if first.ndim in (0, 1, 3) else 1
    if isinstance(dim, (tuple, list)) and len(dim) == 1:
        dim = dim[0]
    return dim % max(1, first.ndim) if isinstance(dim, int) else None


def normalised(values: Tensor, dim: int) -> bool:
    """Whether exponentials sum to one along the axis, to what half precision allows."""
    sums = values.double().exp().sum(dim)
    return bool(((sums - 1).abs() < 2e-2).all())


def places(uses: Sequence[Use]) -> Iterator[tuple[Use, int]]:
    """The first use of each line, with how many of it there are."""
    seen: dict[tuple[str | None, ...], list[Use]] = {}
    for use in uses:
        seen.setdefault((use.source, use.site, use.name, use.of), []).append(use)
    for each in seen.values():
        yield each[0], len(each)
