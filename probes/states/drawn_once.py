"""What a model drew at random in its first pass, and reads in all later ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from probes.experiment import Experiment
from probes.seeding import kept_random_state, seed_everything
from probes.states.attributes import Attribute, Leaves, same
from probes.states.life import Life, Outputs, differs, other_batches
from probes.subject import Batch

SEEDS = (11, 12, 13)


@dataclass(frozen=True, slots=True)
class Kept:
    """An attribute holds numbers that were drawn for the first batch, and later passes read them.

    dropped: the share that is zero of a mask of dropout; None of noise for each sample. share: by
    how much of itself the loss is another with numbers drawn anew.
    """

    attribute: Attribute
    dropped: float | None
    share: float


def kept_draws(experiment: Experiment) -> Iterator[Kept]:
    """Attributes that hang on the random state of the first pass in training mode, and on no other.

    They hold a mask of zeros and of one other number, as dropout does, or an entry for each sample
    of the batch; a second pass, of another batch from another random state, leaves them as they
    are, and with what they held before the first one the loss of the second is another. Raises
    ExperimentError.
    """
    batch, fresh = experiment.batch, Life(experiment)
    first = Life(experiment)
    _train(first, batch, SEEDS[0])
    drawn, empty = first.contents, fresh.contents
    written = [each for each, held in drawn.items() if not same(empty.get(each), held)]
    if not any(
        _dropped(drawn[each]) is not None or _by_sample(drawn[each], experiment.size)
        for each in written
    ):
        return
    other = Life(experiment)
    _train(other, batch, SEEDS[1])
    later = next(iter(other_batches(experiment)), batch)
    _train(first, later, SEEDS[2])
    for each in written:
        held = drawn[each]
        kept = same(held, first.contents.get(each))
        dropped = _dropped(held)
        fits = dropped is not None or _by_sample(held, experiment.size)
        if not kept or not fits or same(held, other.contents.get(each)):
            continue
        share = _matters(experiment, each, later)
        if share is not None:
            yield Kept(each, dropped, share)


def _train(life: Life, batch: Batch, seed: int) -> Outputs:
    with kept_random_state():
        seed_everything(seed)
        return life.train(batch)


def _matters(experiment: Experiment, each: Attribute, later: Batch) -> float | None:
    """By how much the second pass differs once the attribute is as before the first."""
    one, two = Life(experiment), Life(experiment)
    for life in (one, two):
        _train(life, experiment.batch, SEEDS[0])
    two.forget(each, Life(experiment))
    found = differs(_train(one, later, SEEDS[2]), _train(two, later, SEEDS[2]))
    return None if found is None else found[1]


def _dropped(held: Leaves) -> float | None:
    """The share of zeros, where nothing but those and one positive number are held."""
    tensors = [leaf for _, leaf in held if isinstance(leaf, Tensor) and leaf.numel() > 1]
    if len(tensors) != 1:
        return None
    values = tensors[0].unique()
    masks = len(values) == 2 and float(values[0]) == 0 and float(values[1]) > 0
    return float((tensors[0] == 0).double().mean()) if masks else None


def _by_sample(held: Leaves, size: int) -> bool:
    """Whether it holds real numbers for each sample, and not the same for all."""
    tensors = [leaf for _, leaf in held if isinstance(leaf, Tensor) and leaf.ndim > 0]
    return (
        size > 1
        and bool(tensors)
        and all(
            len(leaf) == size and leaf.is_floating_point() and not bool((leaf == leaf[:1]).all())
            for leaf in tensors
        )
    )
