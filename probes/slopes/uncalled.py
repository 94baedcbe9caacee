"""Modules that define a `backward`, which autograd does not call: what it would give instead."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probes.experiment import Experiment
from probes.modules import every_module
from probes.raised import source_of_code
from probes.replay import Snapshot, replay
from probes.stepping.one_step import step_under

NEAR = 1e-3  # of the larger of two gradients


@dataclass(frozen=True, slots=True)
class Uncalled:
    """A module's own `backward` beside autograd's gradient of its input, for the same one behind.

    along: their cosine. own, given: their lengths.
    """

    site: str
    source: str | None
    along: float
    own: float
    given: float


def with_backward(model: nn.Module) -> dict[str, nn.Module]:
    """The modules whose class, of the user's own, has a method of that name."""
    found = {}
    for name, module in every_module(model):
        method = getattr(type(module), "backward", None)
        if inspect.isfunction(method) and source_of_code(method) is not None:
            found[name] = module
    return found


def uncalled(experiment: Experiment) -> Iterator[Uncalled]:
    """Those that a training step runs forwards, and whose `backward` nobody calls in it.

    It must take one tensor, give one of the input's shape, and zeros for zeros, as a gradient does.
    Where it does not call what it takes a gradient, it must be linear, and not the way back from an
    output to its input, as in a flow.
    """
    modules = with_backward(experiment.subject.model)
    with _noted(modules) as (given, calls):
        step_under(experiment.subject, experiment.batch)
    for name, module in modules.items():
        if name in given and not calls[name]:
            found = _compared(experiment.subject.model, name, module, given[name])
            if found is not None:
                yield found


@contextmanager
def _noted(
    modules: dict[str, nn.Module],
) -> Iterator[tuple[dict[str, tuple[Any, ...]], Counter[str]]]:
    """Inside, what each was given last, and how often its `backward` was called."""
    given: dict[str, tuple[Any, ...]] = {}
    calls: Counter[str] = Counter()

    def forward(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            first = args[0] if args else None
            if isinstance(first, Tensor) and first.is_floating_point() and not kwargs:
                given[name] = tuple(
                    a.detach().clone() if isinstance(a, Tensor) else a for a in args
                )
            return own(*args, **kwargs)

        return call

    def backward(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return own(*args, **kwargs)

        return call

    kept = [(m, word, vars(m).get(word)) for m in modules.values() for word in _WORDS]
    try:
        for name, module in modules.items():
            setattr(module, "forward", forward(name, module.forward))  # noqa: B010
            setattr(module, "backward", backward(name, getattr(module, "backward")))  # noqa: B009,B010
        yield given, calls
    finally:
        for module, word, before in kept:
            vars(module).pop(word, None)
            if before is not None:
                setattr(module, word, before)


_WORDS = ("forward", "backward")


def _compared(
    model: nn.Module, name: str, module: nn.Module, args: tuple[Any, ...]
) -> Uncalled | None:
    """Both gradients for the same random one behind; None where they agree, or one is none."""
    pairs: list[tuple[Tensor, Tensor]] = []

    def step() -> Tensor:
        pairs.extend(_gradients(module, args))
        return torch.zeros(())

    try:
        replay(step, model, Snapshot.take(model, parameters=True))
    except Exception:  # a `backward` of another kind, such as one that takes a loss
        return None
    if not pairs:
        return None
    own, given = (each.double().flatten() for each in pairs[0])
    sizes = float(own.norm()), float(given.norm())
    if not torch.isfinite(own).all() or float((own - given).norm()) <= NEAR * max(sizes):
        return None
    along = float(own @ given) / max(sizes[0] * sizes[1], 1e-300)
    source = source_of_code(getattr(type(module), "backward"))  # noqa: B009
    return Uncalled(name, source, along, *sizes)


def _gradients(module: nn.Module, args: tuple[Any, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    with torch.enable_grad():
        learn = args[0].clone().requires_grad_()
        out = module(learn, *args[1:])
    if not isinstance(out, Tensor) or not out.is_floating_point():
        return
    chance = torch.Generator().manual_seed(0)
    behind = torch.randn(out.shape, generator=chance, device="cpu").to(out)
    given = None
    if out.requires_grad:
        [given] = torch.autograd.grad(out, learn, behind, allow_unused=True)
    method: Callable[[Tensor], Any] = getattr(module, "backward")  # noqa: B009

    def own(value: Tensor) -> Tensor:
        gave = method(value.clone())
        gave = gave[0] if isinstance(gave, tuple) else gave
        if not isinstance(gave, Tensor) or gave.shape != learn.shape:
            raise TypeError("no gradient of the input")
        return gave.detach()

    for_it = own(behind)
    if bool(own(torch.zeros_like(behind)).any()):
        return
    if not _takes_gradient(method):
        linear = torch.allclose(own(2 * behind), 2 * for_it, rtol=NEAR)
        undone = torch.allclose(own(out.detach()), learn.detach(), rtol=NEAR, atol=NEAR)
        if undone or not linear:
            return
    yield for_it, torch.zeros_like(for_it) if given is None else given


def _takes_gradient(method: Callable[..., Any]) -> bool:
    first = next(iter(inspect.signature(method).parameters), "")
    return "grad" in first.lower()
