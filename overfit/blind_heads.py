"""Heads that do not follow the input, beside others that may, and where each of them loses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from overfit.exchange import rolled
from overfit.heads import Heads
from overfit.matching import place_of
from overfit.settled import kept
from overfit.targets import Target, read_targets
from probes.batch import leaves
from probes.layout import Layout
from probes.reading.lost import Follow, Lost, followed
from probes.scoring.calls import Scoring
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed


@dataclass(frozen=True, slots=True)
class BlindHead:
    """A head, or a part of the loss, that is the same whichever sample's input it is given.

    op: the last operator that reads what follows the input and gives what does not. site: the
    module that it runs in. source: the user's line.
    """

    head: str
    op: str
    site: str | None = None
    source: str | None = None


def blind_heads(
    subject: Subject,
    batches: Sequence[Batch],
    began: Mapping[str, Tensor],
    keys: Sequence[str],
) -> tuple[BlindHead, ...]:
    """Those of several that are so with the weights at the end, and with those it began with.

    Told by the parts of the loss, and by what torch's losses are handed for the labels that an
    accuracy counts. In evaluation mode; all is as it was afterwards.
    """
    several = max(len(subject.parts), len(read_targets(subject, batches).found)) > 1
    pairs = list(_exchanged(subject, batches, keys)) if several else []
    if not pairs:
        return ()
    now = _blind(subject, pairs)
    if not now:
        return ()
    model, ended = subject.model, kept(subject)
    try:
        model.load_state_dict(dict(began))
        before = _blind(subject, pairs)
    finally:
        model.load_state_dict(ended)
    named = {name: lost for name, lost in now.items() if name in before}
    found = {**named, **_of_heads(subject, batches, named)}
    return tuple(BlindHead(n, each.op, each.site, each.source) for n, each in found.items())


def _exchanged(
    subject: Subject, batches: Sequence[Batch], keys: Sequence[str]
) -> Iterator[tuple[Batch, Batch]]:
    """Each batch beside the same with other samples' inputs, where these are not the same."""
    for batch in batches:
        other = rolled(batch, keys, subject.layout or Layout())
        if other is None:
            continue
        one, two = leaves(batch), leaves(other)
        if any(isinstance(one[key], Tensor) and not one[key].equal(two[key]) for key in keys):
            yield batch, other


def _blind(subject: Subject, pairs: Sequence[tuple[Batch, Batch]]) -> dict[str, Lost]:
    """Parts, and keys of labels, whose numbers no input moves in any batch, to where it is lost."""
    found: dict[str, Lost] | None = None
    for batch, other in pairs:
        here = {**_of_parts(subject, batch, other), **_of_calls(subject, batch, other)}
        found = here if found is None else {n: lost for n, lost in found.items() if n in here}
        if not found:
            return {}
    return found or {}


def _of_parts(subject: Subject, batch: Batch, other: Batch) -> dict[str, Lost]:
    found = {n: _of_part(subject, part, batch, other) for n, part in subject.parts.items()}
    return {name: lost for name, lost in found.items() if lost is not None}


def _of_part(
    subject: Subject, part: Callable[[nn.Module, Batch], Tensor], batch: Batch, other: Batch
) -> Lost | None:
    values: list[Tensor] = []

    def run(fed: Batch, follow: Follow) -> None:
        with undisturbed(subject.model), torch.no_grad(), follow:
            values.append(part(subject.model, fed))

    ways = followed(subject.model, run, batch, other)
    return _lost(ways, values[-1])


def _of_calls(subject: Subject, batch: Batch, other: Batch) -> dict[str, Lost]:
    """By the batch key of the labels that each call of a loss is handed."""
    seen: list[Scoring] = []

    def run(fed: Batch, follow: Follow) -> None:
        seen.append(Scoring())
        with undisturbed(subject.model), torch.no_grad(), seen[-1], follow:
            subject.loss(subject.model, fed)

    ways = followed(subject.model, run, batch, other)
    found: dict[str, Lost | None] = {}
    for call in seen[-1].calls:
        place = place_of(call, batch, subject.layout or Layout())
        if place is not None:
            lost = _lost(ways, call.given)
            found[place.key] = lost if found.get(place.key, lost) is not None else None
    return {key: lost for key, lost in found.items() if lost is not None}


def _lost(ways: Follow | None, end: Tensor) -> Lost | None:
    if ways is None or ways.moved.get(id(end), True):
        return None
    return ways.lost_before(end)


def _of_heads(
    subject: Subject, batches: Sequence[Batch], blind: Mapping[str, Lost]
) -> dict[str, Lost]:
    """The accuracies that count none but labels for which the model is blind."""
    look, targets = Heads(subject, batches).evaluate(), read_targets(subject, batches).found
    found = {}
    for head, count in look.counts.items():
        own = _counted(head, count, look.hits[head], targets)
        lost = [blind.get(str(each.key)) for each in own]
        if lost and lost[0] is not None and None not in lost:
            found[head] = lost[0]
    return found


def _counted(head: str, count: float, hits: float, targets: Sequence[Target]) -> list[Target]:
    """What it counts: by name, or whatever has as many labels, and as many of them right."""
    named = [each for each in targets if head in (each.name, *str(each.key).split("."))]
    return named or [each for each in targets if each.count == count and each.right == hits]
