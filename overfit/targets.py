"""What a suite's samples are scored against: the labels, laid out by sample where that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from overfit.from_layout import counted_labels, leaf_of
from overfit.matching import Place, places_of
from overfit.written_out import Differences, written_out
from probes.batch import leaves
from probes.errors import RequestError
from probes.guess import complete
from probes.layout import Labels, Layout
from probes.raised import said
from probes.scoring.calls import Call, Kind, Scoring
from probes.scoring.switched_off import switched_on
from probes.scoring.weighed import weighed
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

UNREAD = (
    "the labels cannot be read from the batch: declare `Layout.labels`, or score by a loss of "
    "torch.nn.functional"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """The labels in one batch: (sample, ...) where `by_sample`, else (place,).

    counted: as the labels, true where a label is scored. masked: true where the mask shows a
    place, whatever its label; None without a mask. scores: the labels' shape and (class,).
    hidden: true where the label's score is a mask's, so that another is always ahead of it.
    answers: of numbers, and of yes and no, what is held against the labels, in their shape.
    """

    labels: Tensor
    counted: Tensor
    scores: Tensor | None = None
    masked: Tensor | None = None
    by_sample: bool = True
    hidden: Tensor | None = None
    answers: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that the samples are scored against, over all batches of a suite.

    name: its batch key, else the loss that it goes into. key: the batch key. kind: see `Call`.
    loss: torch's function, where one was seen; value: its mean over the batches. whole: whether
    the subject's loss is this value and nothing else. shift: label positions by which outputs
    are ahead. right: how many labels have the largest score, where the scores were seen.
    """

    name: str
    key: str | None
    kind: Kind
    pieces: tuple[Piece, ...]
    loss: str | None = None
    value: float | None = None
    smoothing: float = 0.0
    weighted: bool = False
    whole: bool = False
    shift: int = 0
    right: float | None = None

    @property
    def kept(self) -> Tensor:
        """(place,) the labels that are scored, those of all batches; (place, class) of shares."""
        return torch.cat([each.labels[each.counted] for each in self.pieces])

    @property
    def count(self) -> int:
        """How many labels are scored."""
        return sum(int(each.counted.sum()) for each in self.pieces)

    @property
    def classes(self) -> int | None:
        """How many classes the scores know, where they were seen."""
        known = [each.scores.shape[-1] for each in self.pieces if each.scores is not None]
        return max(known, default=None) if self.kind in ("class", "shares") else None

    @property
    def in_order(self) -> bool:
        """Whether the labels of a sample are a sequence."""
        return self.kind == "class" and all(
            each.by_sample and each.labels.ndim > 1 and each.labels.shape[-1] > 1
            for each in self.pieces
        )


@dataclass(frozen=True, slots=True)
class Targets:
    """What was read; why nothing was, where nothing was."""

    found: tuple[Target, ...] = ()
    why: str | None = None


def read_targets(subject: Subject, batches: Sequence[Batch], training: bool = False) -> Targets:
    """What the batches are scored against: as declared, else as torch's losses are handed it.

    Runs the loss once a batch in evaluation mode, or when training in the modes as found; modes
    and random states stay as they are.
    """
    layout = subject.layout or Layout()
    try:
        seen, totals = _calls(subject, batches, training)
    except Exception as error:
        if not layout.labels:
            return Targets((), f"{UNREAD} (the loss in evaluation mode raised {said(error)})")
        seen, totals = [[] for _ in batches], []
    try:
        declared = list(_declared(layout, layout.labels, batches))
    except RequestError as error:
        return Targets((), str(error))
    found = _of_calls(batches, seen, layout) if not declared else _valued(declared, seen)
    if not found:
        guessed = complete(batches[0], layout).layout
        found = list(_guessed(guessed, batches))
    if not found:
        return Targets((), UNREAD)
    return Targets(tuple(_whole(each, totals) for each in found))


def _calls(
    subject: Subject, batches: Sequence[Batch], training: bool
) -> tuple[list[list[Call]], list[float]]:
    seen: list[list[Call]] = []
    totals: list[float] = []
    for batch in batches:
        taken = Differences()
        with undisturbed(subject.model, training), torch.no_grad(), Scoring() as scoring, taken:
            totals.append(float(subject.loss(subject.model, batch)))
        if _are_mixed(scoring.calls):
            seen.append([])
        elif not scoring.calls:
            seen.append(written_out(taken.pairs, batch, totals[-1]))
        else:
            calls = weighed(subject, batch, scoring.calls, training)
            seen.append(switched_on(subject, batch, calls, training))
    return seen, totals


def _are_mixed(calls: Sequence[Call]) -> bool:
    """Whether the same scores are held against several classes, as those of mixed samples are.

    No scores have both of them right.
    """
    of_classes = [each for each in calls if each.kind == "class"]
    return any(
        one.given.data_ptr() == two.given.data_ptr()
        and one.given.shape == two.given.shape
        and one.labels.shape == two.labels.shape
        and not torch.equal(one.labels, two.labels)
        for i, one in enumerate(of_classes)
        for two in of_classes[:i]
    )


def _declared(
    layout: Layout, wanted: Sequence[Labels], batches: Sequence[Batch]
) -> Iterator[Target]:
    for labels in wanted:
        pieces = []
        for batch in batches:
            leaf = leaf_of(batch, labels.key)
            counted = counted_labels(leaf, batch, labels, layout)
            masked = counted_labels(leaf, batch, replace(labels, ignore=None), layout)
            start = max(0, labels.shift)  # labels before it have no output that is scored
            cut = (slice(None),) * min(1, leaf.ndim - 1) + (slice(start, None),)
            shown = masked[cut] if labels.mask is not None else None
            pieces.append(Piece(leaf[cut], counted[cut], masked=shown))
        kind: Kind = "class" if labels.kind == "class" else "value"
        if kind == "class" and any(each.labels.is_floating_point() for each in pieces):
            kind = "value"
        yield Target(labels.key, labels.key, kind, tuple(pieces), shift=labels.shift)


def _guessed(layout: Layout, batches: Sequence[Batch]) -> Iterator[Target]:
    """By name, or the last of a batch that is a tuple of two or more tensors."""
    wanted = layout.labels
    found = leaves(batches[0])
    if not wanted and list(found) == [str(i) for i in range(len(found))] and len(found) > 1:
        last = found[str(len(found) - 1)]
        if isinstance(last, Tensor) and last.ndim:
            kind: Literal["class", "value"] = "value" if last.is_floating_point() else "class"
            wanted = (Labels(str(len(found) - 1), "output", kind=kind),)
    try:
        yield from _declared(layout, wanted, batches)
    except RequestError:
        return


def _valued(declared: Sequence[Target], seen: Sequence[Sequence[Call]]) -> list[Target]:
    """What is declared, with the numbers of the call that is handed the same labels."""
    return [_with_call(each, seen) for each in declared]


def _with_call(target: Target, seen: Sequence[Sequence[Call]]) -> Target:
    calls = [
        next((c for c in some if c.labels.numel() and _agrees(c, piece)), None)
        for some, piece in zip(seen, target.pieces, strict=True)
    ]
    kept = [call for call in calls if call is not None]
    if len(kept) < len(calls) or not kept:
        return target
    pieces = tuple(
        replace(piece, scores=_shaped(call, piece.labels))
        for piece, call in zip(target.pieces, kept, strict=True)
    )
    return replace(target, pieces=pieces, **_about(kept))


def _agrees(call: Call, piece: Piece) -> bool:
    if call.kind == "shares":
        return False
    one, other = call.labels[call.counted], piece.labels[piece.counted]
    return one.shape == other.shape and bool((one.to(other.dtype) == other).all())


def _shaped(call: Call, labels: Tensor) -> Tensor | None:
    shape = (*labels.shape, call.scores.shape[-1])
    return call.scores.reshape(shape) if call.scores[..., 0].numel() == labels.numel() else None


def _about(calls: Sequence[Call]) -> dict[str, Any]:
    values = [call.value for call in calls if call.value is not None]
    right = [call.right for call in calls]
    hits = [float(each.sum()) for each in right if each is not None]
    return {
        "right": sum(hits) if len(hits) == len(calls) else None,
        "loss": calls[0].loss,
        "value": sum(values) / len(values) if len(values) == len(calls) else None,
        "smoothing": calls[0].smoothing,
        "weighted": any(call.weighted for call in calls),
    }


def _of_calls(
    batches: Sequence[Batch], seen: Sequence[Sequence[Call]], layout: Layout
) -> list[Target]:
    """A target for each call that every batch makes; none where batches make other calls."""
    lengths = {len(some) for some in seen}
    if len(lengths) != 1:
        return []
    found: list[Target] = []
    for place in range(lengths.pop()):
        calls = [some[place] for some in seen]
        if len({call.kind for call in calls}) > 1:
            continue
        places = places_of(calls, batches, layout)
        found.append(_target(calls, places, {each.name for each in found}))
    return found


def _target(calls: Sequence[Call], places: Sequence[Place | None], taken: set[str]) -> Target:
    keys = {None if place is None else place.key for place in places}
    key = keys.pop() if len(keys) == 1 else None
    pieces = []
    for call, place in zip(calls, places, strict=True):
        if key is None or place is None:
            pieces.append(Piece(call.labels, call.counted, _scores(call), by_sample=False))
        else:
            pieces.append(Piece(*place.laid_out(call), answers=place.answers(call)))
    name = key or calls[0].loss
    if name in taken:
        name = next(f"{name} {i}" for i in range(2, 1000) if f"{name} {i}" not in taken)
    shift = places[0].shift if key is not None and places[0] is not None else 0
    return Target(name, key, calls[0].kind, tuple(pieces), shift=shift, **_about(calls))


def _scores(call: Call) -> Tensor | None:
    return call.scores if call.kind in ("class", "shares") else None


def _whole(target: Target, totals: Sequence[float]) -> Target:
    """With `whole` where the subject's loss is the call's value."""
    if target.value is None or not totals:
        return target
    total = sum(totals) / len(totals)
    same = abs(total - target.value) <= 1e-4 * max(abs(total), 1e-6)
    return replace(target, whole=same)
