"""Where code asks which class is the likeliest: the scores that it asks of, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ASKS = (torch.argmax, Tensor.argmax, torch.max, Tensor.max, torch.topk, Tensor.topk)
MOST = 512  # questions that are kept


class Choices(TorchFunctionMode):
    """While it is entered, what was asked of `size` rows of scores is kept in `found`, in order.

    found: (sample, class) scores and (sample,) the class of the largest. Of scores by place only
    the last place is kept, which is the one that is written next.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Tensor]] = []
        self._size = size

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function has run; what it was asked is kept."""
        out = func(*args, **(kwargs or {}))
        scores = args[0] if args else (kwargs or {}).get("input")
        if func in ASKS and isinstance(scores, Tensor) and len(self.found) < MOST:
            chosen = out if isinstance(out, Tensor) else out[1]
            asked = self._last(scores.detach(), chosen)
            if asked is not None:
                self.found.append(asked)
        return out

    def _last(self, scores: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor] | None:
        """Of the last place; None where no class was asked for, a row each."""
        if chosen.is_floating_point() or not scores.is_floating_point() or scores.ndim < 2:
            return None
        if chosen.ndim == scores.ndim and chosen.shape[-1]:
            chosen = chosen[..., 0]
        if chosen.shape != scores.shape[:-1] or scores.ndim > 3 or scores.shape[-1] < 3:
            return None
        if scores.ndim == 3:
            axis = 1 if len(scores) == self._size else 0
            scores, chosen = scores.select(axis, -1), chosen.select(axis, -1)
        return (scores.clone(), chosen.clone()) if len(scores) == self._size else None
