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
    """An accuracy that has `hits` of `count` right, while the loss's scores have all labels right.

    target: whose labels. source: where the accuracy begins in the user's code. scored: how many
    labels the loss scores.
    """

    head: str
    target: str
    hits: float
    count: float
    source: str | None
    scored: float


def miscounted(
    subject: Subject, batches: Sequence[Batch], targets: Sequence[Target]
) -> tuple[Miscounted, ...]:
    """The accuracies of the labels that the loss scores, each of which has its largest score.

    And those that count more than the loss scores, where it scores one thing alone.
    """
    heads = Heads(subject, batches)
    if heads.derived:
        return ()
    look = heads.evaluate()
    known, unknown = slots(targets, {}, look.hits, look.counts)
    pairs = [(each.head, each.target) for each in known]
    if len(targets) == 1:
        more = (head for head in unknown if look.counts[head] > targets[0].count > 0)
        pairs += [(head, targets[0]) for head in more]
    return tuple(
        Miscounted(
            head,
            target.name,
            look.hits[head],
            look.counts[head],
            source_of_code(heads.accuracies[head]),
            target.count,
        )
        for head, target in pairs
        if target.right == target.count and look.hits[head] < look.counts[head]
    )
