"""What unlocks a suite: interventions tried one at a time, then the best together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from overfit.asked import Asked
from overfit.curves import Curves
from overfit.interventions import UNCHANGED, CannotChangeError, offered
from overfit.plan import Plan
from overfit.rules.memorised import Memorised
from overfit.suites import Suite, read_suites
from probes.record import Recorder
from probes.run import Run
from probes.subject import Subject

OTHER_WEIGHTS = 1009
"""What is added to the seed for the control's initial weights."""
LITTLE = 1e-4
"""A gain that is none."""
TOGETHER = 3  # interventions at most


def alone(subject: Subject, asked: Asked, record: Recorder) -> list[Plan]:
    """A plan for each intervention on the smallest suite that was not memorised, and the control.

    None where all were memorised, or where the optimizer cannot be made again, which the record
    then says.
    """
    suite = _smallest(record)
    if suite is None:
        return []
    try:
        names = list(offered(subject, asked.dropout))
    except CannotChangeError as error:
        record.note(nothing_tried=str(error))
        return []
    size = suite.curves.size
    control = replace(_plan(asked, size, ()), weights=asked.seed + OTHER_WEIGHTS)
    return [replace(control, changed=(UNCHANGED,)), *(_plan(asked, size, (n,)) for n in names)]


def together(asked: Asked, record: Recorder) -> list[Plan]:
    """Plans with the best interventions at once, two of them or all, where none unlocked it alone.

    Two as well, since one that helps may be too much beside the others: a learning rate x 100
    where the schedule that kept the rate small is off.
    """
    suite = _smallest(record)
    if suite is None:
        return []
    tries = suite.curves.tries
    known = Memorised()
    if any(known.holds(each) for name, each in tries.items() if name != (UNCHANGED,)):
        return []
    better = [name[0] for name in _by_gain(suite.curves) if name != (UNCHANGED,)]
    best = _of_different_kinds(better)[:TOGETHER]
    several = [names for count in range(2, len(best) + 1) for names in combinations(best, count)]
    return [_plan(asked, suite.curves.size, names) for names in several]


def _smallest(record: Recorder) -> Suite | None:
    """The smallest suite of the run's own seed that was not memorised, and did not die."""
    known = Memorised()
    left = [
        each
        for each in read_suites(Run(record.folder))
        if each.leads and each.curves.ended in ("steps", "refused") and not known.holds(each.curves)
    ]
    return min(left, key=lambda each: each.curves.size, default=None)


def _plan(asked: Asked, size: int, changed: tuple[str, ...]) -> Plan:
    plan = next(each for each in asked.plans() if each.size == size and each.kind == "suite")
    return replace(plan, kind="try", changed=changed, attention=False, seed=asked.seed)


def _by_gain(curves: Curves) -> list[tuple[str, ...]]:
    """The interventions that did better than the suite itself, the best first."""
    gains: dict[tuple[str, ...], float] = {
        name: _gain(curves, each)
        for name, each in curves.tries.items()
        if each.ended == "steps" and each.losses and len(name) == 1
    }
    return sorted((name for name in gains if gains[name] > LITTLE), key=lambda name: -gains[name])


def _gain(before: Curves, after: Curves) -> float:
    """What the worst head gained, and by what share the loss is lower, which counts a tenth."""
    lower = (before.end - after.end) / max(abs(before.end), 1e-12)
    if not before.heads or not after.heads:
        return lower
    least = min(head.last for head in before.heads.values())
    return min(head.last for head in after.heads.values()) - least + lower / 10


def _of_different_kinds(names: Sequence[str]) -> list[str]:
    """The first of each kind: one learning rate, one loss part."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(name.split(" x ")[0].split(" `")[0], name)
    return list(found.values())
