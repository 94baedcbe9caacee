"""Accuracies that count as wrong what the loss has right by its own scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from overfit.heads import Heads
from overfit.slots import slots
from overfit.targets import Target
from probes.raised import source_of_code
from probes.subject import Batch, Subject


@dataclass(frozen=True, slots=True)
class Miscounted:
    """An accuracy that has `hits` of `count` labels right, of which the loss's scores have all.

    target: whose labels both are. source: where the accuracy begins in the user's code.
    """

    head: str
    target: str
    hits: float
    count: float
    source: str | None


def miscounted(
    subject: Subject, batches: Sequence[Batch], targets: Sequence[Target]
) -> tuple[Miscounted, ...]:
    """The accuracies of as many labels as the loss scores, each of which has its largest score."""
    heads = Heads(subject, batches)
    if heads.derived:
        return ()
    look = heads.evaluate()
    known, _ = slots(targets, {}, look.hits, look.counts)
    return tuple(
        Miscounted(
            each.head,
            each.target.name,
            look.hits[each.head],
            look.counts[each.head],
            source_of_code(heads.accuracies[each.head]),
        )
        for each in known
        if each.target.right == each.target.count > look.hits[each.head]
    )
