"""Which accuracy counts which labels: all of a target's, those that name a unit, or the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overfit.targets import Target
from probes.batch import leaves
from probes.layout import Layout
from probes.subject import Batch


@dataclass(frozen=True, slots=True)
class Slot:
    """Labels that an accuracy counts.

    head: the accuracy's name. target: whose labels. places: one boolean tensor a piece, as its
    labels, true where the label is counted. kind: which of the labels: `all`, `units` or `rest`.
    """

    head: str
    target: Target
    places: tuple[Tensor, ...]
    kind: str = "all"

    @property
    def labels(self) -> Tensor:
        """(place,) those that are counted, over all pieces."""
        pairs = zip(self.target.pieces, self.places, strict=True)
        return torch.cat([piece.labels[places] for piece, places in pairs])


def slots(
    targets: Sequence[Target],
    units: Mapping[str, Sequence[Tensor]],
    hits: Mapping[str, float],
    counts: Mapping[str, float],
) -> tuple[tuple[Slot, ...], tuple[str, ...]]:
    """What each accuracy counts, and the accuracies of which that cannot be told.

    units: target to where its labels name a unit. hits, counts: of every accuracy. One is a
    target's where it bears its name or counts as many labels; where several count as many, the
    one whose scores give as many hits.
    """
    known = [(each, kind, places) for each in targets for kind, places in _parts(each, units)]
    found, unknown = [], []
    for head, count in counts.items():
        fit = [row for row in known if sum(int(p.sum()) for p in row[2]) == count]
        named = [row for row in fit if row[0].name == head or head in str(row[0].key).split(".")]
        right = [row for row in fit if _hits(row[0], row[2]) == hits[head]]
        best = named or (right if len(fit) > 1 else []) or fit
        if best and count:
            target, kind, places = best[0]
            found.append(Slot(head, target, places, kind))
        else:
            unknown.append(head)
    return tuple(found), tuple(unknown)


def _parts(
    target: Target, units: Mapping[str, Sequence[Tensor]]
) -> list[tuple[str, tuple[Tensor, ...]]]:
    counted = tuple(each.counted for each in target.pieces)
    parts = [("all", counted)]
    if target.name in units:
        pairs = list(zip(counted, units[target.name], strict=True))
        parts.append(("units", tuple(places & unit for places, unit in pairs)))
        parts.append(("rest", tuple(places & ~unit for places, unit in pairs)))
    return parts


def _hits(target: Target, places: Sequence[Tensor]) -> float | None:
    """How many of the places the scores get right; None where they were not seen."""
    total = 0
    for piece, counted in zip(target.pieces, places, strict=True):
        if piece.scores is None:
            return None
        total += int(((piece.scores.argmax(-1) == piece.labels) & counted).sum())
    return total


def units_of(
    targets: Sequence[Target], batches: Sequence[Batch], layout: Layout
) -> dict[str, tuple[Tensor, ...]]:
    """Target to where its labels name a unit, by the layout's names.

    A key as large as the labels names them; what is called like an entry of a key along an axis
    of units is a unit. Empty where nothing is declared so.
    """
    names = {
        str(name)
        for key, known in layout.names.items()
        if "unit" in layout.axes.get(key, ()) and not callable(known)
        for name in known
        if name
    }
    found: dict[str, tuple[Tensor, ...]] = {}
    for target in targets if names else ():
        places = [
            _unit_places(piece.labels, batch, layout, names)
            for piece, batch in zip(target.pieces, batches, strict=True)
        ]
        known_places = [each for each in places if each is not None]
        if known_places and len(known_places) == len(places):
            found[target.name] = tuple(known_places)
    return found


def _unit_places(labels: Tensor, batch: Batch, layout: Layout, units: set[str]) -> Tensor | None:
    for key, leaf in leaves(batch).items():
        known = layout.names.get(key)
        if known is None or callable(known) or not isinstance(leaf, Tensor):
            continue
        if leaf.shape != labels.shape or not units.intersection(known):
            continue
        is_unit = torch.tensor([str(name) in units for name in known], device=leaf.device)
        return is_unit[leaf.long().clamp(0, len(known) - 1)]
    return None
