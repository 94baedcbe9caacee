"""The suites of a run, each with all that its verdict rests on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nan_watch.rules import RULES as HEALTH
from overfit.curves import Curves, read_curves
from overfit.floors import BLIND, Floor
from probes import strict_json
from probes.finding import Finding, judge
from probes.run import Run


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite's part of a run, and its curves. leads: whether its seed is the run's own."""

    part: Run
    curves: Curves
    leads: bool


class OwnParts(Run):
    """A run without the parts in which the subject was changed on purpose."""

    @property
    def parts(self) -> Iterator[tuple[str, Run]]:
        """Those of the subject as it is."""
        return (each for each in super().parts if _kind(each[1]) not in ("blind", "try"))


def read_suites(run: Run) -> list[Suite]:
    """Every suite of the run, smaller ones first, with floors, checks, seeds and interventions."""
    parts = list(run.parts)
    plain = [(name, part, read_curves(part)) for name, part in parts if _kind(part) == "suite"]
    checks = [
        each for _, part in parts if _kind(part) == "check" for each in part.judgement.findings
    ]
    tries = [(part, read_curves(part)) for _, part in parts if _kind(part) == "try"]
    blind = {part.folder.name: part for _, part in parts if _kind(part) == "blind"}
    asked = run.facts.get("settings", {}).get("seed", run.facts.get("seed"))
    first = asked if any(each.seed == asked for _, _, each in plain) else None
    found = []
    for name, part, curves in sorted(plain, key=lambda each: (each[2].size, each[0])):
        whole = replace(
            curves,
            watched=_watched(part, checks),
            others=tuple(c for _, _, c in plain if c.size == curves.size and c.seed != curves.seed),
            smaller=tuple(c for _, _, c in plain if c.size < curves.size and c.seed == curves.seed),
            tries=_tries(tries, curves),
            untried=run.facts.get("settings", {}).get("nothing_tried"),
            **_blind(blind.get(f"{name}-blind"), curves),
        )
        found.append(Suite(part, whole, first is None or curves.seed == first))
    return found


def _kind(part: Run) -> str:
    return str(part.facts.get("settings", {}).get("part"))


def _watched(part: Run, checks: Sequence[Finding]) -> tuple[Finding, ...]:
    """What the checks of the subject and the gradient-health rules say of this suite."""
    return (*checks, *judge(HEALTH, part).findings)


def _tries(tries: Sequence[tuple[Run, Curves]], of: Curves) -> Mapping[tuple[str, ...], Curves]:
    return {
        tuple(part.facts["settings"]["changed"]): curves
        for part, curves in tries
        if (curves.size, curves.seed) == (of.size, of.seed)
    }


def _blind(part: Run | None, of: Curves) -> dict[str, Any]:
    """The floors with those of the model trained blind, or why there are none."""
    if part is None or any(each.name == BLIND for each in of.floors):
        return {}
    if part.facts["settings"].get("ended") == "died":
        said = str(part.facts["settings"].get("said")).partition(": ")[2]
        if f"nothing was trained blind: {said}" in of.unjudged:
            return {}
        return {"unjudged": (*of.unjudged, f"nothing was trained blind: {said}")}
    curves = read_curves(part)
    if curves.ended not in ("steps", "memorised") or not curves.losses:
        return {}
    return {"floors": (*of.floors, *blind_floors(curves))}


def note_floors(suite: Suite) -> None:
    """The floors of the suite, blind training included, stand in its record's settings."""
    facts = json.loads((suite.part.folder / "run.json").read_text(encoding="utf-8"))
    known = [each.as_json() for each in suite.curves.floors]
    said = list(suite.curves.unjudged)
    before = facts["settings"]
    if known != before.get("floors", []) or said != before.get("floors_not_judged", []):
        facts["settings"] |= {"floors": known, "floors_not_judged": said}
        strict_json.write(suite.part.folder / "run.json", facts)


def blind_floors(curves: Curves) -> tuple[Floor, ...]:
    """What a model that was trained blind came to, head by head."""
    if not curves.heads:
        return (Floor(BLIND, "<loss>", None, curves.end, exact=True),)
    return tuple(
        Floor(BLIND, name, head.last, curves.end if len(curves.heads) == 1 else None)
        for name, head in curves.heads.items()
    )
