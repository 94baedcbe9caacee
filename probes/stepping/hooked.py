"""A hook before each step of an optimizer, also of one that is an Optimizer by name alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

from probes.replay import with_inner


@contextmanager
def before_steps(optimizer: Optimizer, look: Callable[..., None]) -> Iterator[None]:
    """Inside, `look` is called before each step; a shell's, as Accelerate's, of what it holds."""
    shell: Any = optimizer
    whole = hasattr(shell, "_optimizer_step_pre_hooks")
    hooked = [optimizer] if whole else with_inner([optimizer])[:1]
    handles = [each.register_step_pre_hook(look) for each in hooked]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
