"""What the decisions of a model that did not memorise rest on: its inputs, the prefix, or nothing.

Measured by integrated gradients, with some samples of the batch beside each other, so that what
looks at the others is seen as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from probes.attribution import Attributed
from probes.attribution_record import Place, write_attributions
from probes.batch import sample_count, take
from probes.finding import Evidence
from probes.guess import complete
from probes.record import Recorder
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

TOGETHER, SAMPLES = 4, 2  # of a batch: side by side, and whose decisions are looked at
TOLD, NOTHING = 6, 1e-4  # shares that are told one by one, and what counts as none


@dataclass(frozen=True, slots=True)
class Rests:
    """What decisions rest on, in the mean.

    shares: key of the batch to its share of all magnitudes, 0 where no gradient leads to it.
    prefixes: those of these keys that hold the labels before. others: the share of the other
    samples. decisions: how many were looked at. delta, allowed: the worst convergence delta and
    its limit. why: why nothing could be measured.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    others: float = 0.0
    decisions: int = 0
    delta: float = 0.0
    allowed: float = 0.0
    why: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As a suite's settings hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Rests:
        """What `as_json` wrote."""
        return cls(**{**row, "prefixes": tuple(row["prefixes"])})

    def evidence(self, name: str) -> Iterator[Evidence]:
        """Every share, and whether the integral converged. name: of the part that holds it."""
        if self.why is not None:
            yield Evidence("what decisions rest on", f"not judged: {self.why}")
            return
        anchor = f"{name}-attribution-0"
        told = [(key, share) for key, share in self.shares.items() if share >= NOTHING]
        for key, share in told[:TOLD]:
            what = f"`{key}`, the labels before" if key in self.prefixes else f"`{key}`"
            yield Evidence(f"share of decisions that rests on {what}", share, anchor=anchor)
        if len(told) > TOLD:
            rest = sum(share for _, share in told[TOLD:])
            yield Evidence(f"share of decisions that rests on {len(told) - TOLD} other keys", rest)
        if self.others >= NOTHING:
            what = "share of decisions that rests on the other samples of the batch"
            yield Evidence(what, self.others, anchor=anchor)
        if unread := [f"`{key}`" for key, share in self.shares.items() if share < NOTHING]:
            yield Evidence("no decision rests on", ", ".join(unread))
        what = f"convergence delta of these shares, the worst of {self.decisions} decisions"
        yield Evidence(what, self.delta, self.allowed)


def write_rests(
    recorder: Recorder, subject: Subject, batch: Batch, prefixes: Sequence[str]
) -> Rests:
    """What decisions of the first samples rest on; every entry's part lies in the record."""
    count = sample_count(batch, subject.layout)
    if count is None:
        return Rests(why="the batch cannot be cut into samples")
    few = take(batch, range(min(count, TOGETHER)), subject.layout)
    try:
        with undisturbed(subject.model):
            found = write_attributions(
                recorder, subject, few, range(min(count, SAMPLES)), pick=_late_ones, alone=False
            )
    except Exception as error:  # the user's code, which may not take to it
        return Rests(why=str(error) or type(error).__name__)
    masks = {mask.key for mask in complete(batch, subject.layout).layout.masks}
    return _of(found, [key for key in prefixes if key not in masks])


def _late_ones(places: Sequence[Place]) -> Sequence[Place]:
    """One in the middle and the last, since the first ones have no prefix to rest on."""
    return list(dict.fromkeys([places[len(places) // 2], places[-1]]))


def _of(found: Sequence[Attributed], prefixes: Sequence[str]) -> Rests:
    shares = [each.shares for each in found]
    keys = dict.fromkeys(key for each in found for key in sorted(each.read))
    mean = {key: fmean(each.get(key, 0.0) for each in shares) for key in keys}
    worst = max(found, key=lambda each: abs(each.delta) / each.allowed)
    return Rests(
        shares=dict(sorted(mean.items(), key=lambda item: -item[1])),
        prefixes=tuple(key for key in prefixes if key in mean),
        others=fmean(1 - sum(each.values()) if each else 0.0 for each in shares),
        decisions=len(found),
        delta=abs(worst.delta),
        allowed=worst.allowed,
    )
