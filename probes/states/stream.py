"""Whether each row of a batch goes on where the same row of the batch before it ended."""

from __future__ import annotations

from itertools import islice, pairwise

from torch import Tensor

from probes.batch import leaves
from probes.experiment import Experiment
from probes.seeding import kept_random_state
from probes.subject import Batch

LOOKED = 4  # batches
AGREED = 0.9  # share of rows
CLOSE = 0.25  # of the distance between any two rows


def is_stream(experiment: Experiment) -> bool:
    """Whether the batches are consecutive pieces of the same sequences, as for a language model.

    Of ids: the label of a row's last place is the first id of the row in the next batch, or the
    last id itself is. Of numbers: a row begins near where it ended, and not near other rows.
    """
    with kept_random_state():
        batches = list(islice(experiment.subject.batches, LOOKED))
    pairs = list(pairwise(batches))
    return bool(pairs) and all(_goes_on(one, two) for one, two in pairs)


def _goes_on(one: Batch, two: Batch) -> bool:
    before, after = _sequences(one), _sequences(two)
    return any(
        _meets(end, start, before[key])
        for end in before.values()
        for key, start in after.items()
        if key in before
    )


def _sequences(batch: Batch) -> dict[str, Tensor]:
    found = ((k, leaf) for k, leaf in leaves(batch).items() if isinstance(leaf, Tensor))
    return {k: leaf for k, leaf in found if leaf.ndim > 1 and min(leaf.shape[:2]) > 1}


def _meets(end: Tensor, start: Tensor, inner: Tensor) -> bool:
    """Along either of the first two axes, since time may come first."""
    for axis in (1, 0):
        last, first = end.select(axis, -1), start.select(axis, 0)
        if last.shape != first.shape or last.dtype != first.dtype or len(last) < 2:
            continue
        if last.is_floating_point():
            if _is_near(last, first, inner.select(axis, -1) - inner.select(axis, -2)):
                return True
        elif len(last.unique()) > 1 and float((last == first).float().mean()) >= AGREED:
            return True
    return False


def _is_near(last: Tensor, first: Tensor, step: Tensor) -> bool:
    """Whether the jump is no larger than a usual step and small beside that to other rows."""
    jump = (first - last).abs().mean()
    across = (first - last.roll(1, 0)).abs().mean()
    return bool(jump <= 3 * step.abs().mean()) and bool(jump <= CLOSE * across)
