"""Calls of loss functions, with the targets that lie outside of what each takes by its page."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.bus import hook_gradient
from probes.experiment import LOSS
from probes.raised import source_here
from probes.running import names_of, running

ROUNDING = 1e-4

Outside = Callable[[Tensor, Mapping[str, Any]], Tensor]
"""Target and settings to where it lies outside; of the target's shape."""


def _no_sign(target: Tensor, _: Mapping[str, Any]) -> Tensor:
    return (target != 1) & (target != -1)


def _no_share(target: Tensor, _: Mapping[str, Any]) -> Tensor:
    return (target < -ROUNDING) | (target > 1 + ROUNDING)


def _no_count(target: Tensor, _: Mapping[str, Any]) -> Tensor:
    return target < 0


def _no_chance(target: Tensor, given: Mapping[str, Any]) -> Tensor:
    if given.get("log_target"):
        return target > ROUNDING
    return (target < -ROUNDING) | (target > 1 + ROUNDING)


def _repeated(target: Tensor, _: Mapping[str, Any]) -> Tensor:
    """Classes that a row names a second time before its first -1."""
    rows = target.reshape(-1, target.shape[-1]) if target.ndim else target.reshape(1, 1)
    named = (rows < 0).long().cumsum(1) == 0
    same = (rows[:, :, None] == rows[:, None, :]).tril(-1).any(2)
    return (named & same).reshape(target.shape)


SIGNS = "cosine_embedding_loss", "margin_ranking_loss", "hinge_embedding_loss", "soft_margin_loss"
DOMAINS: Mapping[Any, tuple[str, Outside]] = {
    **{getattr(F, name): ("1 and -1", _no_sign) for name in SIGNS},
    F.binary_cross_entropy: ("numbers from 0 to 1", _no_share),
    F.binary_cross_entropy_with_logits: ("numbers from 0 to 1", _no_share),
    F.multilabel_soft_margin_loss: ("0 and 1", _no_share),
    F.poisson_nll_loss: ("counts, from 0 on", _no_count),
    F.kl_div: ("probabilities", _no_chance),
    F.multilabel_margin_loss: ("classes, each once, and then -1", _repeated),
}
"""Function to what its targets may be."""


@dataclass(eq=False)
class Asked:
    """One call whose targets are not what the function takes, or some of them.

    takes: what it does take. odd: where they lie outside. given: its arguments by name. reaches:
    whether what is outside moves what is minimised.
    """

    name: str
    takes: str
    target: Tensor
    odd: Tensor
    given: dict[str, Any]
    function: Any
    site: str
    source: str | None
    reaches: bool = False

    @property
    def values(self) -> list[float]:
        """The targets outside, each once."""
        return [float(each) for each in self.target[self.odd].unique()]

    def is_idle(self, value: float) -> bool:
        """Whether whatever has this target adds no gradient at all."""
        at = self.target == value
        floats = {
            name: each.detach().clone().requires_grad_()
            for name, each in self.given.items()
            if isinstance(each, Tensor) and each.is_floating_point() and name in INPUTS
        }
        try:
            with torch.enable_grad():
                each = self.function(**{**self.given, **floats, "reduction": "none"})
                if each.shape != at.shape:
                    return False
                grads = torch.autograd.grad(each[at].sum(), list(floats.values()))
        except Exception:  # such as a target that is a leaf of another graph
            return False
        return not any(bool(grad.any()) for grad in grads)


INPUTS = ("input", "input1", "input2")


class Targets(TorchFunctionMode):
    """Notes the calls, and every value of the targets by the line that calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[Asked] = []
        self.lowest: dict[str | None, float] = {}
        self._names = names_of(model)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in DOMAINS and isinstance(out, Tensor) and out.requires_grad:
            given = dict(inspect.signature(func).bind(*args, **kwargs).arguments)
            target = given.get("target")
            if isinstance(target, Tensor) and target.numel():
                self._look(func, target.detach(), given, out)
        return out

    def _look(self, func: Any, target: Tensor, given: dict[str, Any], out: Tensor) -> None:
        takes, outside = DOMAINS[func]
        source, odd = source_here(), outside(target, given)
        lowest = self.lowest.get(source, float("inf"))
        self.lowest[source] = min(lowest, float(target.min()))
        weight = given.get("weight")
        if isinstance(weight, Tensor):
            odd = odd & (weight.detach() != 0).expand_as(odd)
        if not bool(odd.any()):
            return
        site = running(self._names) or LOSS
        asked = Asked(
            func.__name__, takes, target.clone(), odd, given, func, site, source
        )  # fmt: skip
        self.found.append(asked)

        def arrived(grad: Tensor | None) -> None:
            if grad is not None:
                at = odd if grad.shape == odd.shape else torch.ones_like(grad, dtype=torch.bool)
                asked.reaches = asked.reaches or bool(grad[at].any())

        hook_gradient(out, arrived)
