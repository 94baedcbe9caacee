"""Autograd functions of the user's own: how each call's backward compares with its forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, Function

from probes.ancestry import nodes_behind
from probes.raised import source_of_code
from probes.running import names_of, running

STEP = 1e-6
CALLS = 3  # of each function, of which one must be wrong


@dataclass(frozen=True, slots=True)
class Applied:
    """A call of a function: where, and with what. site: the innermost module at work."""

    function: type[Function]
    site: str | None
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Wrong:
    """A function whose backward is not the derivative of its forward.

    source: line of its backward. identity: it gives what it is given. flat: it gives the same
    when its input moves a little. back, real: slopes along two directions each.
    """

    name: str
    site: str | None
    source: str | None
    identity: bool
    flat: bool
    back: tuple[float, ...]
    real: tuple[float, ...]

    @property
    def factor(self) -> float | None:
        """What the true derivative is multiplied by; None where it is no such thing."""
        ratios = [b / r for b, r in zip(self.back, self.real, strict=True) if r]
        if len(ratios) < len(self.real) or max(ratios) - min(ratios) > 1e-3 * abs(ratios[0]):
            return None
        return ratios[0]


def own_functions(loss: Tensor) -> list[type[Function]]:
    """The functions of the user's own in the graph behind a loss."""
    found: dict[type[Function], None] = {}
    for node in nodes_behind(loss):
        if isinstance(node, BackwardCFunction):
            function = node._forward_cls  # type: ignore[attr-defined]
            if source_of_code(function.backward) is not None:
                found[function] = None
    return list(found)


@contextmanager
def applied(model: nn.Module, functions: Sequence[type[Function]]) -> Iterator[list[Applied]]:
    """Inside, calls of these functions are listed with their arguments."""
    calls: list[Applied] = []
    names = names_of(model)
    with ExitStack() as given:
        for function in functions:  # `apply` may have been bound long ago; `forward` is looked up
            own = vars(function).get("forward")
            given.callback(setattr, function, "forward", own or staticmethod(function.forward))
            noted = _noting(function, function.forward, names, calls)
            setattr(function, "forward", staticmethod(noted))  # noqa: B010
        yield calls


def _noting(
    function: type[Function],
    forward: Callable[..., Any],
    names: dict[int, str],
    calls: list[Applied],
) -> Callable[..., Any]:
    own_context = function.setup_context is not Function.setup_context

    def noted(*args: Any) -> Any:
        given = args if own_context else args[1:]
        kept = tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in given)
        calls.append(Applied(function, running(names), kept))
        return forward(*args)

    return noted


def wrong(calls: Sequence[Applied]) -> list[Wrong]:
    """Each function of which a call's backward is not its derivative, once."""
    found: dict[type[Function], Wrong] = {}
    tried: dict[type[Function], int] = {}
    for call in calls:
        tried[call.function] = tried.get(call.function, 0) + 1
        if call.function not in found and tried[call.function] <= CALLS:
            bad = _compared(call)
            if bad is not None:
                found[call.function] = bad
    return list(found.values())


def _compared(call: Applied) -> Wrong | None:
    floats = [i for i, a in enumerate(call.args) if _is_float(a)]
    pairs, out, moved = [], None, False
    for seed in range(2):
        chance = torch.Generator().manual_seed(seed)
        ways = {i: _way(call.args[i], chance) for i in floats}
        learn = {i: call.args[i].clone().requires_grad_() for i in floats}
        out = _first(call.function.apply(*_with(call.args, learn)))
        if out is None or not out.requires_grad:
            return None
        weights = torch.randn(out.shape, generator=chance, dtype=torch.float64, device="cpu").to(
            out.device
        )
        grads = torch.autograd.grad((out * weights).sum(), list(learn.values()), allow_unused=True)
        given = {i: g for i, g in zip(floats, grads, strict=True) if g is not None}
        if not given:
            return None
        ways = {i: way for i, way in ways.items() if i in given}  # others are declared constants
        back = sum(float((given[i] * way).sum()) for i, way in ways.items())
        sides = []
        for sign in (STEP, -STEP):
            there = {i: call.args[i] + sign * way for i, way in ways.items()}
            sides.append(_first(call.function.apply(*_with(call.args, there))).detach())
        moved = moved or not torch.equal(*sides)
        pairs.append((back, float(((sides[0] - sides[1]) * weights).sum()) / (2 * STEP)))
    if all(abs(b - r) <= 1e-3 * max(abs(b), abs(r), 1e-12) for b, r in pairs):
        return None
    first = call.args[floats[0]]
    return Wrong(
        name=call.function.__name__,
        site=call.site,
        source=source_of_code(call.function.backward),
        identity=out is not None and out.shape == first.shape and torch.equal(out, first),
        flat=not moved,
        back=tuple(b for b, _ in pairs),
        real=tuple(r for _, r in pairs),
    )


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def _way(value: Tensor, chance: torch.Generator) -> Tensor:
    noise = torch.randn(value.shape, generator=chance, dtype=torch.float64, device="cpu")
    scale = float(value.double().square().mean().sqrt()) or 1.0
    return (noise * scale).to(value.device)


def _with(args: tuple[Any, ...], other: dict[int, Any]) -> list[Any]:
    return [other.get(i, arg) for i, arg in enumerate(args)]


def _first(out: Any) -> Any:
    return next((o for o in out if _is_float(o)), None) if isinstance(out, tuple) else out
