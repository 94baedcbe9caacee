"""Which steps bear a dearer look: many at the beginning, then one in so many."""

from __future__ import annotations

WHOLE = 64  # steps in which every site is measured: more than a suite or a hunt mostly takes
SHARES = 7  # that the sites are dealt into; a prime, which falls in with few lengths of an epoch


def is_sampled(step: int, every: int = 64) -> bool:
    """True for steps 0, 1, 2, 4, 8, ... up to `every`, and then for every so many-th."""
    return step % every == 0 if step >= every else step & (step - 1) == 0


def share_measured(step: int) -> int | None:
    """Which share of the sites has its extremes taken, of SHARES; None where every site has.

    All do in the first steps, where most that goes wrong does. Later each does in one step of
    SHARES, every step another share: no step costs more than the next, and a trend over many
    steps needs no point at each of them. step: counted from 0 where the watch began.
    """
    return step % SHARES if step >= WHOLE else None
