"""Which steps bear a dearer look: many at the beginning, then one in so many."""

from __future__ import annotations


def is_sampled(step: int, every: int = 64) -> bool:
    """True for steps 0, 1, 2, 4, 8, ... up to `every`, and then for every so many-th."""
    return step % every == 0 if step >= every else step & (step - 1) == 0
