"""What a loop's frame knew as one of its backward passes began, kept while more of them follow."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from torch import Tensor

from nan_watch.inquest.glimpse import glimpse, is_functions, sees_itself

BUDGET = 256 * 2**20  # bytes that the passes before the newest may hold on to
KEPT = 16  # such passes
Key = tuple[int, CodeType]
"""A frame, by its id and code."""


@dataclass(frozen=True, slots=True)
class Names:
    """What a frame knew, but for results with a graph. frame: which one it was."""

    frame: Key
    globals: Mapping[str, Any]
    locals: Mapping[str, Any]

    @classmethod
    def of(cls, frame: FrameType) -> Names | None:
        """Those of now; None where the frame's own code might see that it was looked at."""
        if is_functions(frame) and sees_itself(frame):
            return None
        return cls((id(frame), frame.f_code), frame.f_globals, _plain(glimpse(frame)))

    @property
    def all(self) -> dict[str, Any]:
        """By name, as the frame's code sees them."""
        return {**self.globals, **self.locals}

    def tensors(self) -> Iterator[Tensor]:
        """Those that stand in the names, and in containers there."""
        for value in self.locals.values():
            parts = value.values() if isinstance(value, dict) else value
            inside = parts if isinstance(value, (dict, list, tuple)) else [value]
            yield from (each for each in inside if isinstance(each, Tensor))


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """A backward pass. begins: where the model was called for it. end, root, names: it began.

    fresh: the bytes of tensors that the pass before did not know.
    """

    begins: Sequence[Any]
    end: Any
    root: Tensor
    names: Names | None
    fresh: int = 0


class Turns:
    """The passes of a step before its newest, the oldest first, within a budget."""

    def __init__(self) -> None:
        self.kept: deque[Turn] = deque(maxlen=KEPT)
        self._known: set[int] = set()

    def keep(self, begins: Sequence[Any], end: Any, root: Tensor, names: Names | None) -> None:
        """One that is followed by another."""
        if names is None:
            return
        sizes = {id(t): t.numel() * t.element_size() for t in names.tensors()}
        fresh = sum(size for each, size in sizes.items() if each not in self._known)
        self._known = set(sizes)
        self.kept.append(Turn(begins, end, root, names, fresh))
        while self.kept and sum(each.fresh for each in self.kept) > BUDGET:
            self.kept.popleft()

    def forget(self) -> None:
        """They are no part of the step any more."""
        self.kept.clear()


def _plain(names: Mapping[str, Any]) -> dict[str, Any]:
    held = names.items()
    return {k: v for k, v in held if not (isinstance(v, Tensor) and v.grad_fn is not None)}
