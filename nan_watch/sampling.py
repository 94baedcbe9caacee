"""Which steps bear a dearer look: many at the beginning, then one in 64."""

from __future__ import annotations

EVERY = 64


def is_sampled(step: int) -> bool:
    """True for steps 0, 1, 2, 4, 8, 16, 32, and then for every 64th."""
    return step % EVERY == 0 if step >= EVERY else step & (step - 1) == 0
