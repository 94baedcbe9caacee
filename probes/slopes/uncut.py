"""Sees where code cuts the way back by `detach`, `.data` or `no_grad`, and undoes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from probes.raised import source_here


@dataclass(frozen=True, slots=True)
class Cut:
    """A place that cuts. kind: `detach`, `data` or `no_grad`. source: the user's line."""

    kind: str
    source: str | None


Undo = Callable[[Cut], bool]
"""Whether this cut is to have no effect."""


@contextmanager
def replaced(owner: type, name: str, value: Any) -> Iterator[None]:
    """Inside, the class has another attribute; then its own again, or its parent's."""
    own = vars(owner)
    before = [own[name]] if name in own else []
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before:
            setattr(owner, name, before[0])
        else:
            delattr(owner, name)


@dataclass
class Cuts:
    """While it is entered, cuts are noted in `seen`, each once, and those chosen have no effect."""

    undo: Undo = lambda _: False
    seen: dict[Cut, None] = field(default_factory=dict)
    _given: ExitStack = field(default_factory=ExitStack)

    def _is_undone(self, kind: str) -> bool:
        cut = Cut(kind, source_here())
        self.seen[cut] = None
        return self.undo(cut)

    def __enter__(self) -> Self:
        detach = Tensor.detach
        data: Any = torch._C.TensorBase.data

        def detached(tensor: Tensor) -> Tensor:
            return tensor if self._is_undone("detach") else detach(tensor)

        def read(tensor: Tensor) -> Tensor:
            kept: Tensor = tensor if self._is_undone("data") else data.__get__(tensor)
            return kept

        self._replace(Tensor, "detach", detached)
        self._replace(Tensor, "data", property(read, data.__set__, data.__delete__))
        self._replace(torch.no_grad, "__enter__", self._entered())
        return self

    def _entered(self) -> Callable[[Any], None]:
        enter = torch.no_grad.__enter__

        def entered(guard: Any) -> None:
            if self._is_undone("no_grad"):
                guard.prev = torch.is_grad_enabled()
            else:
                enter(guard)

        return entered

    def _replace(self, owner: type, name: str, value: Any) -> None:
        self._given.enter_context(replaced(owner, name, value))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._given.close()
