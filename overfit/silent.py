"""Parts of a loss that are not gone, and from which no parameter gets a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from overfit.regularisers import regularisers
from overfit.terms import MOST
from probes.ancestry import nodes_behind
from probes.nested import tensors_in
from probes.raised import source_here
from probes.scoring.addends import addends, part
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed


@dataclass(frozen=True, slots=True)
class Silent:
    """A part that is `value` still. op, source: what its gradient goes into, and comes not out of.

    None where that is no call of the user's code.
    """

    name: str
    value: float
    op: str | None = None
    source: str | None = None

    @property
    def words(self) -> str:
        """Where it ends, as part of a sentence."""
        line = f" at {self.source}" if self.source else ""
        at = f": it ends at `{self.op}`{line}, which hands none of it back"
        return f"its part of the loss gives no parameter a gradient{at if self.op else ''}"


def silent_parts(subject: Subject, batches: Sequence[Batch]) -> tuple[Silent, ...]:
    """The parts, or the terms where nobody has named any, that score labels and teach nothing.

    They are above zero, hang on trained parameters, and give none of them a gradient that is not
    exactly zero, on any batch, in the modes of training. The model is as it was afterwards.
    """
    named = _named(subject, batches[0])
    if len(named.parts) < 2:
        return ()
    quiet = [name for name in named.parts if _is_silent(named, name, batches)]
    if not quiet:
        return ()
    meant = regularisers(named, batches[0])
    return tuple(_told(named, name, batches[0]) for name in quiet if name not in meant)


def _named(subject: Subject, batch: Batch) -> Subject:
    """The subject with the terms of its loss as parts, where it names none."""
    if subject.parts:
        return subject
    with undisturbed(subject.model, training=True), torch.no_grad():
        found = addends(subject, subject.model, batch)
    if not 1 < len(found) <= MOST:
        return subject
    names = [each.name for each in found]
    names = [f"{n} ({i + 1})" if names.count(n) > 1 else n for i, n in enumerate(names)]
    return replace(subject, parts={name: part(subject, i) for i, name in enumerate(names)})


def _is_silent(subject: Subject, name: str, batches: Sequence[Batch]) -> bool:
    trained = [each for each in subject.model.parameters() if each.requires_grad]
    for batch in batches:
        with undisturbed(subject.model, training=True), torch.enable_grad():
            value = subject.parts[name](subject.model, batch)
            if not value.requires_grad or not float(value) > 0:
                return False
            grads = torch.autograd.grad(value, trained, allow_unused=True)
        if any(grad is not None and bool(grad.to_dense().any()) for grad in grads):
            return False
    return True


def _told(subject: Subject, name: str, batch: Batch) -> Silent:
    with undisturbed(subject.model, training=True), torch.enable_grad(), _Calls() as calls:
        value = subject.parts[name](subject.model, batch)
        trained = [each for each in subject.model.parameters() if each.requires_grad]
        ended = _ends_at(value, trained)
    op, source = calls.of.get(ended, (None, None))
    return Silent(name, float(value.detach()), op, source)


def _ends_at(value: Tensor, trained: Sequence[Tensor]) -> Any:
    """The node that a gradient goes into and comes not out of; None where none was seen."""
    found: list[Any] = []

    def watched(node: Any) -> Callable[..., None]:
        def look(out: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> None:
            if _any(given) and not _any(out):
                found.append(node)

        return look

    handles = [node.register_hook(watched(node)) for node in nodes_behind(value)]
    try:
        torch.autograd.grad(value, trained, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _any(tensors: Sequence[Tensor | None]) -> bool:
    return any(each is not None and bool(each.to_dense().any()) for each in tensors)


class _Calls(TorchFunctionMode):
    """Which function made each node of the graph, and at which line of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[Any, tuple[str, str | None]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tensors_in((out,)):
            if each.grad_fn is not None and each.grad_fn not in self.of:
                self.of[each.grad_fn] = getattr(func, "__name__", "").strip("_"), source_here()
        return out
