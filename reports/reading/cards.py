"""Findings as cards: evidence as rows, the story as a list, the user's lines around the culprit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from probes.finding import Evidence, Finding
from probes.source import SourceLine
from reports.figures.figure import identifier, number

STORY, LAST, HIDDEN = "story", "not finite: ", "hidden before: "

Kind = Literal["finite", "hidden", "birth", "spread", "symptom", "after"]
CALLED: dict[Kind, str] = {
    "finite": "last finite",
    "hidden": "hidden before",
    "birth": "first bad",
    "spread": "spread",
    "symptom": "not finite",
    "after": "afterwards",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """Evidence as a row; what was read step after step shares one."""

    what: str
    value: str
    limit: str
    step: str
    anchor: str | None


@dataclass(frozen=True, slots=True)
class Stage:
    """A line of the story of a value that is not finite, from the last finite one to its spread."""

    id: str
    kind: Kind
    words: str
    step: int | None

    @property
    def called(self) -> str:
        """The kind, in words."""
        return CALLED[self.kind]


@dataclass(frozen=True, slots=True)
class Card:
    """One finding with its address in the page and the user's lines around the culprit."""

    id: str
    finding: Finding
    evidence: tuple[Measured, ...]
    story: tuple[Stage, ...]
    where: str
    source: tuple[SourceLine, ...]


def read_cards(
    findings: Sequence[Finding], sources: Mapping[str, tuple[SourceLine, ...]]
) -> Iterator[Card]:
    """A card a finding, each with an address of its own. sources: lines around what they name."""
    taken: dict[str, int] = {}
    for finding in findings:
        anchor = identifier(finding.anchor)
        taken[anchor] = taken.get(anchor, 0) + 1
        name = anchor if taken[anchor] == 1 else f"{anchor}-{taken[anchor]}"
        yield Card(
            id=name,
            finding=finding,
            evidence=tuple(_measured([e for e in finding.evidence if not _told(e)])),
            story=tuple(_story(finding, name)),
            where=", ".join(_at(axis, place) for axis, place in finding.where.items()),
            source=sources.get(finding.source or "", ()),
        )


def _at(axis: str, place: object) -> str:
    """`time 3`; `place 3 of axis 1` where the axis has no name of its own."""
    return f"place {place} of {axis}" if axis[-1:].isdigit() else f"{axis} {place}"


def _told(evidence: Evidence) -> bool:
    return evidence.what == STORY


def _measured(evidence: Sequence[Evidence]) -> Iterator[Measured]:
    for _, group in groupby(evidence, lambda each: (each.what, each.limit, each.unit)):
        same = list(group)
        steps = [each.step for each in same if each.step is not None]
        values = ", ".join(number(each.value) for each in same)
        yield Measured(
            what=same[0].what,
            value=f"{values} {same[0].unit}" if same[0].unit else values,
            limit=number(same[0].limit),
            step=f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else number(same[0].step),
            anchor=next((each.anchor for each in same if each.anchor), None),
        )


def _story(finding: Finding, name: str) -> Iterator[Stage]:
    """What was last finite, then the lines that the replay told; nothing where it told none."""
    told = [each for each in finding.evidence if _told(each)]
    if not told:
        return
    stages = [("finite", _past(each), each.step) for each in _last_finite(finding)]
    for each in told:
        words, before = str(each.value), any(kind == "birth" for kind, _, _ in stages)
        stages.append((_kind(words, each.step, before), _bare(words), each.step))
    for place, (kind, words, step) in enumerate(stages, 1):
        yield Stage(f"{name}-story-{place}", kind, words, step)  # type: ignore[arg-type]


def _kind(words: str, step: int | None, before: bool) -> Kind:
    if step is not None:
        return "after"
    if words.startswith(HIDDEN):
        return "hidden"
    if words.startswith(LAST):
        return "symptom"
    return "spread" if before else "birth"


def _bare(words: str) -> str:
    return words.removeprefix(HIDDEN).removeprefix(LAST)


def _last_finite(finding: Finding) -> list[Evidence]:
    """The newest number that was as it should be, of everything that was to be finite."""
    newest: dict[str, Evidence] = {}
    for each in finding.evidence:
        plain = isinstance(each.value, (int, float)) and math.isfinite(each.value)
        if each.limit == "finite" and plain and each.step is not None:
            newest[each.what] = each
    return list(newest.values())


def _past(evidence: Evidence) -> str:
    return f"{evidence.what}: {number(evidence.value)}"
