"""A step whose gradients torch does not clip, so that one can be held against another."""

from __future__ import annotations

import sys
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

WRITES = ("mul_", "_foreach_mul_", "clamp_", "_foreach_clamp_min_", "_foreach_clamp_max_")


class Unclipped(TorchDispatchMode):
    """What `torch.nn.utils` clips stays as it is; the norm that it gives is right."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        if name in WRITES and in_clipping():
            return None if name.startswith("_foreach") else args[0]
        return func(*args, **(kwargs or {}))


def in_clipping() -> bool:
    """Whether torch's functions that clip gradients are at work."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        if frame.f_code.co_filename.endswith("clip_grad.py"):
            return True
        frame = frame.f_back
    return False
