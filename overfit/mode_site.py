"""Which module's mode makes the difference between training and evaluation, and at which line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from probes.modules import every_module
from probes.raised import source_here
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

SAME_LOSS = 1e-3  # of itself
LEAST = 1e-6  # of the loss: what a mode must move it by
MOST = 100  # modules that are tried one by one
CALLS = 5000  # that are followed


@dataclass(frozen=True, slots=True)
class ModeSite:
    """The module, and the user's line up to which both modes do the same, where that is known."""

    site: str
    source: str | None


def mode_site(
    subject: Subject, batches: Sequence[Batch], evaluated: float, trained: float
) -> ModeSite | None:
    """The module that alone, put into evaluation mode, moves the loss most.

    A module of a kind with numbers that training mode writes, or that drops some; where none of
    them moves it, any whose own code asks for its mode, with the line at which the two modes part.
    None where the loss is the same in both modes.
    """
    if abs(evaluated - trained) <= SAME_LOSS * abs(trained):
        return None
    model = subject.model
    own = [(name, each) for name, each in model.named_modules() if _has_modes(each)]
    with undisturbed(model, training=True), torch.no_grad():
        if (found := _most(subject, batches, own)) is not None:
            return ModeSite(found, None)
        known = {id(each) for _, each in own}
        others = (each for each in every_module(model) if id(each[1]) not in known)
        found = _most(subject, batches, islice(others, MOST))
        if found is None:
            return None
        return ModeSite(found, _parting_line(subject, batches[0]))


def _most(
    subject: Subject, batches: Sequence[Batch], modules: Iterable[tuple[str, nn.Module]]
) -> str | None:
    base, effects = _loss(subject, batches), dict[str, float]()
    for name, module in modules:
        if module.training:
            module.training = False
            effects[name] = abs(_loss(subject, batches) - base)
            module.training = True
    best = max(effects, key=effects.__getitem__, default=None)
    return best if best is not None and effects[best] > LEAST * abs(base) else None


def _loss(subject: Subject, batches: Sequence[Batch]) -> float:
    """The mean over the batches, each time from the same random state."""
    with undisturbed(subject.model, training=True):
        total = sum(float(subject.loss(subject.model, batch)) for batch in batches)
    return total / len(batches)


def _has_modes(module: nn.Module) -> bool:
    """Whether it has numbers of its own kind that training mode writes, or drops some."""
    if list(module.children()):
        return False
    return "drop" in type(module).__name__.lower() or bool(list(module.buffers(recurse=False)))


class _Lines(TorchFunctionMode):
    """While it is entered, keeps each call's name and the user's line, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str | None]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if len(self.calls) < CALLS:
            self.calls.append((getattr(func, "__name__", ""), source_here()))
        return func(*args, **(kwargs or {}))


def _parting_line(subject: Subject, batch: Batch) -> str | None:
    """The user's line of the first call that only training mode makes."""
    runs = []
    for training in (True, False):
        with undisturbed(subject.model, training), _Lines() as lines:
            subject.loss(subject.model, batch)
        runs.append(lines.calls)
    pairs = zip_longest(*runs)
    return next(((one or two)[1] for one, two in pairs if one != two), None)
