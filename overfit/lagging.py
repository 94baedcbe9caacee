"""Whether what is evaluated is a copy of the trained weights that has not caught up with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from overfit.heads import Evaluation, Heads
from probes.loop import Loop
from probes.raised import source_here
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed


@dataclass(frozen=True, slots=True)
class Lagging:
    """A module that no optimizer holds, with whose twin's weights more is right.

    site, of: the copy, and the trained module. way: how far it went, of the way of the other; None
    where that went nowhere. before, after, count: what is right with its own weights, and with the
    trained ones, of the head that gains most. source: the user's line that writes into the copy in
    a step, where there is one.
    """

    site: str
    of: str
    way: float | None
    head: str
    before: float
    after: float
    count: float
    source: str | None = None


def lagging(
    subject: Subject, batches: Sequence[Batch], began: Mapping[str, Tensor]
) -> Lagging | None:
    """The copy with which most becomes right when it is given the weights that are trained.

    A copy has parameters, or buffers in their place, of the same shapes in the same order. All is
    as it was afterwards.
    """
    heads = Heads(subject, batches)
    if heads.derived:
        return None
    own = heads.evaluate()
    if not own.counts or own.perfect:
        return None
    found = [
        (each, copy)
        for copy, trained in _twins(subject)
        if (each := _tried(heads, own, copy, trained, began)) is not None
    ]
    if not found:
        return None
    best, copy = max(found, key=lambda each: (each[0].after - each[0].before) / each[0].count)
    return replace(best, source=_written(subject, batches[0], copy))


def _written(subject: Subject, batch: Batch, copy: _Held) -> str | None:
    """The user's line that first writes into the copy in a step, after which all is as it was."""
    model = subject.model
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    writes = _Writes(copy)
    try:
        with undisturbed(model, training=True), torch.enable_grad(), writes:
            Loop(subject).step(batch)
        return writes.source
    finally:
        model.load_state_dict(kept)
        model.zero_grad(set_to_none=True)


class _Writes(TorchFunctionMode):
    """Keeps the first line that calls an operator in place on one of a copy's numbers."""

    def __init__(self, copy: _Held) -> None:
        super().__init__()
        self.source: str | None = None
        self._own = {id(each) for _, each in copy.numbers}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The operator has run."""
        name = getattr(func, "__name__", "")
        if self.source is None and args and name.endswith("_") and not name.endswith("__"):
            many = args[0] if isinstance(args[0], (list, tuple)) else (args[0],)
            if any(id(each) in self._own for each in many):
                self.source = source_here()
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class _Held:
    """A module's numbers, by their names in the model."""

    site: str
    numbers: tuple[tuple[str, Tensor], ...]

    @property
    def shapes(self) -> list[torch.Size]:
        return [each.shape for _, each in self.numbers]


def _twins(subject: Subject) -> Iterator[tuple[_Held, _Held]]:
    """Each pair of a module that no optimizer holds and one of the same shapes that it does."""
    optimizer = subject.optimizer(subject.model)
    held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    copies, trained = [], []
    for name, module in subject.model.named_modules():
        mine = [*module.named_parameters(prefix=name)]
        loose = [*module.named_buffers(prefix=name)] if not mine else []
        if mine and all(id(each) in held and each.requires_grad for _, each in mine):
            trained.append(_Held(name, tuple(mine)))
        elif mine and not any(id(each) in held for _, each in mine):
            copies.append(_Held(name, tuple(mine)))
        elif loose and name:
            copies.append(_Held(name, tuple(loose)))
    for copy in copies:
        for other in reversed(trained):  # the innermost first
            if copy.shapes == other.shapes:
                yield copy, other
                break


def _tried(
    heads: Heads, own: Evaluation, copy: _Held, trained: _Held, began: Mapping[str, Tensor]
) -> Lagging | None:
    kept = [each.detach().clone() for _, each in copy.numbers]
    pairs = list(zip(copy.numbers, trained.numbers, strict=True))
    try:
        with torch.no_grad():
            for (_, mine), (_, theirs) in pairs:
                mine.copy_(theirs)
        new = heads.evaluate()
    finally:
        with torch.no_grad():
            for (_, mine), before in zip(copy.numbers, kept, strict=True):
                mine.copy_(before)
    gains = {name: (new.hits[name] - own.hits[name]) / n for name, n in own.counts.items() if n}
    head = max(gains, key=gains.__getitem__)
    if not gains[head] > 0:
        return None
    way, whole = _way(copy, began), _way(trained, began)
    part = way / whole if way is not None and whole else None
    counts = own.hits[head], new.hits[head], own.counts[head]
    return Lagging(copy.site, trained.site, part, head, *counts)


def _way(held: _Held, began: Mapping[str, Tensor]) -> float | None:
    """How far it is from where it began."""
    if any(name not in began for name, _ in held.numbers):
        return None
    far = (float((v.detach() - began[n]).double().square().sum()) for n, v in held.numbers)
    return math.sqrt(sum(far))
