"""What tells runs apart: settings, verdicts, curves, and the first step at which they part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from probes.errors import RequestError
from probes.finding import Judgement
from probes.run import Matrix, Run
from reports.figures.curves import Course, Curve
from reports.figures.figure import number
from reports.page import Fact, flat, is_judged
from reports.reading.courses import read_course
from reports.reading.stretches import UNREADABLE, settings, stretches

APART = ("run", "complete", "schema", "command")  # which tell nothing of the computation
SIZES = {
    "output": "the largest absolute value in the output",
    "output_grad": "the largest absolute value in the gradient of the output",
}
FIRST_STEP = {
    "first_step.loss": "loss of the first batch",
    "first_step.samples": "samples in the first batch",
    "first_step.parameters": "number of trained parameters",
}
ORDER = ("output", "loss", "output_grad", "param_grad", "clip", "update")  # of a step
WHEN = ("jobs", "ended_by", "interrupted", "not_begun", "notes")


@dataclass(frozen=True, slots=True)
class Parting:
    """The first step at which two runs hold other numbers, and the first site in that step.

    steps: which both hold; None of step: all numbers of those are equal to the bit.
    """

    one: str
    other: str
    stretch: str | None
    step: int | None
    site: str | None
    what: str | None
    values: tuple[float, float] | None
    steps: int
    only_one: int
    only_other: int

    @property
    def same(self) -> bool:
        """Whether all that both recorded is equal, and neither recorded a step more."""
        return self.step is None and self.steps > 0 and self.only_one == self.only_other == 0

    @property
    def words(self) -> str:
        """In a sentence."""
        pair = f"`{self.one}` and `{self.other}`"
        if self.steps == 0:
            return f"{pair} have no step in common."
        if self.same:
            return f"{pair}: same computation, {self.steps} steps are equal to the bit."
        if self.step is None:
            ahead = (
                f"`{self.one}` goes on for {self.only_one}"
                if self.only_one
                else f"`{self.other}` goes on for {self.only_other}"
            )
            return f"{pair}: {self.steps} steps are equal to the bit; then {ahead} more."
        assert self.values is not None
        where = "" if self.stretch == "run" else f" of `{self.stretch}`"
        return (
            f"{pair} part at step {self.step}{where}: {self.what} of `{self.site}` is "
            f"{number(self.values[0])} and {number(self.values[1])}."
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """names: how the runs are called. differ: settings, with one value a run.

    other: what is said of runs of different subjects. unfinished: of those that were cut off.
    """

    names: tuple[str, ...]
    judgements: tuple[Judgement | None, ...]
    differ: tuple[tuple[str, tuple[str, ...]], ...]
    partings: tuple[Parting, ...]
    spread: tuple[str, ...]
    courses: tuple[Course, ...]
    other: str | None = None
    unfinished: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The first thing to know."""
        if self.other:
            return self.other
        if all(each.same for each in self.partings):
            return "Same computation: every number of every step is equal."
        return self.partings[0].words


def compare(folders: Sequence[Path]) -> Comparison:
    """The runs side by side, each beside the first. Raises RequestError for under two."""
    if len(folders) < 2:
        raise RequestError(
            "`compare` was given one run: name two or more, such as `runs/A runs/B`."
        )
    runs = [Run(folder) for folder in folders]
    names = _names(runs)
    facts = [dict(_told(run)) for run in runs]
    every = list(dict.fromkeys(name for each in facts for name in each))
    rows = ((name, tuple(each.get(name, "") for each in facts)) for name in every)
    others = zip(names[1:], runs[1:], strict=True)
    parted = [parting(names[0], runs[0], name, run) for name, run in others]
    return Comparison(
        names=names,
        judgements=tuple(map(_judgement, runs)),
        differ=tuple((called(name), values) for name, values in rows if len(set(values)) > 1),
        partings=tuple(parted),
        spread=tuple(_spread(names, runs, facts)),
        courses=tuple(_courses(names, runs)),
        other=_other(names, [str(each.get("settings.subject") or "") for each in facts]),
        unfinished=tuple(_unfinished(names, runs)),
    )


def called(name: str) -> str:
    """A setting by its dotted name, as a reader calls it."""
    name = name.removeprefix("settings.")
    if name.startswith("first_step.shapes."):
        return f"shape of `{name.removeprefix('first_step.shapes.')}` in the first batch"
    return FIRST_STEP.get(name, name)


def _other(names: Sequence[str], subjects: Sequence[str]) -> str | None:
    if len(set(subjects)) < 2 or not all(subjects):
        return None
    told = ", ".join(
        f"`{subject}` in `{name}`" for name, subject in zip(names, subjects, strict=True)
    )
    return f"These are runs of different subjects: {told}."


def _unfinished(names: Sequence[str], runs: Sequence[Run]) -> Iterator[str]:
    for name, run in zip(names, runs, strict=True):
        if not run.complete:
            how = "was interrupted" if settings(run).get("interrupted") else "is incomplete"
            cut = [part for part, each in stretches(run)[1:] if not each.complete]
            never = settings(run).get("not_begun")
            missing = [*cut, *(map(str, never) if isinstance(never, list) else ())]
            yield f"`{name}` {how}{': it lacks ' + ', '.join(missing) if missing else ''}."


def _names(runs: Sequence[Run]) -> tuple[str, ...]:
    """The folders' own names, with as much of the path as it takes to tell them apart."""
    paths = [run.folder.resolve() for run in runs]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    taken: dict[str, int] = {}
    for place, name in enumerate(names):
        taken[name] = taken.get(name, 0) + 1
        names[place] = name if taken[name] == 1 else f"{name} ({taken[name]})"
    return tuple(names)


def _told(run: Run) -> Iterator[tuple[str, str]]:
    """Everything that may make a run another one, by dotted name."""
    plain = {name: value for name, value in run.facts.items() if name not in APART}
    asked = {name: each for name, each in settings(run).items() if name not in WHEN}
    yield from ((fact.name, fact.value) for fact in flat({**plain, "settings": asked}))


def _judgement(run: Run) -> Judgement | None:
    try:
        return run.judgement if is_judged(run, run.judgement) else None
    except UNREADABLE:
        return None


def parting(one: str, first: Run, other: str, second: Run) -> Parting:
    """Where the two runs first part, over all stretches that both have."""
    shared, only_one, only_other = 0, 0, 0
    seconds = dict(stretches(second))
    for name, run in stretches(first):
        if name not in seconds:
            continue
        steps = set(run.steps.tolist()), set(seconds[name].steps.tolist())
        shared += len(steps[0] & steps[1])
        only_one += len(steps[0] - steps[1])
        only_other += len(steps[1] - steps[0])
        found = _first(run, seconds[name])
        if found is not None:
            step, site, what, values = found
            return Parting(one, other, name, step, site, what, values, shared, only_one, only_other)
    return Parting(one, other, None, None, None, None, None, shared, only_one, only_other)


def _first(one: Run, other: Run) -> tuple[int, str, str, tuple[float, float]] | None:
    """Step, site, what and both values of the first difference; sites in the order of the step."""
    ticks = {(row["kind"], row["site"]): row["tick"] for row in one.sites}
    both = [stream for stream in one.streams if stream in other.streams]
    found = []
    for kind, stat in both:
        for step, site, values in _differences(one.matrix(kind, stat), other.matrix(kind, stat)):
            order = ORDER.index(kind) if kind in ORDER else len(ORDER)
            tick = ticks.get((kind, site), 0)
            found.append((step, order, tick, _called(kind, stat), site, values))
    if not found:
        return None
    step, _, _, what, site, values = min(found, key=lambda each: each[:4])
    return step, site, what, values


def _called(kind: str, stat: str) -> str:
    """A stream in words, such as `the largest absolute value in the output`."""
    return SIZES[kind] if stat == "abs_max" and kind in SIZES else f"{kind} {stat}"


def _differences(one: Matrix, other: Matrix) -> Iterator[tuple[int, str, tuple[float, float]]]:
    """The sites that differ at the first step at which any does."""
    sites = [site for site in one.sites if site in other.sites]
    steps, left, right = np.intersect1d(one.steps, other.steps, return_indices=True)
    a = np.array([one.sites.index(site) for site in sites], np.int64)
    b = np.array([other.sites.index(site) for site in sites], np.int64)
    ones, others = one.values[left][:, a], other.values[right][:, b]
    seen = one.seen[left][:, a] & other.seen[right][:, b]
    equal = (ones == others) | (np.isnan(ones) & np.isnan(others))
    apart = seen & ~equal
    if apart.any():
        row = int(np.flatnonzero(apart.any(axis=1))[0])
        for column in np.flatnonzero(apart[row]):
            values = float(ones[row, column]), float(others[row, column])
            yield int(steps[row]), sites[column], values


def _spread(
    names: Sequence[str], runs: Sequence[Run], facts: Sequence[Mapping[str, str]]
) -> Iterator[str]:
    """What is said of the last losses beside the spread of runs that differ by seed alone."""
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for place, each in enumerate(facts):
        lasting = tuple(sorted(pair for pair in each.items() if _lasting(pair[0])))
        groups.setdefault(lasting, []).append(place)
    losses = [dict(_last_losses(run)) for run in runs]
    members = list(groups.values())
    for group in members:
        seeds = {facts[place].get("seed") for place in group}
        if len(group) > 1 and len(seeds) > 1:
            called = ", ".join(f"`{names[place]}`" for place in group)
            yield f"{called} differ by their seed alone."
    for one, other in combinations(members, 2):
        spread, rest = (one, other) if len(one) >= len(other) else (other, one)
        for name in sorted(set.intersection(*(set(losses[place]) for place in (*one, *other)))):
            if len(spread) > 1:
                inside = [losses[place][name] for place in spread]
                beside = {names[place]: losses[place][name] for place in rest}
                yield _within(name, inside, beside)


def _lasting(name: str) -> bool:
    """Whether a setting is more than the seed, or what came of the run."""
    outcome = ("settings.ended", "settings.refused", "settings.said", "settings.parameters")
    return name not in ("seed", "settings.seed", *outcome) and not name.startswith(outcome)


def _within(name: str, spread: Sequence[float], rest: Mapping[str, float]) -> str:
    low, high = min(spread), max(spread)
    inside = min(rest.values()) <= high and max(rest.values()) >= low
    where = "within the spread of seeds" if inside else "outside of the spread of seeds"
    told = ", ".join(f"{number(value)} in `{called}`" for called, value in rest.items())
    return (
        f"The last loss of {name}, {told}, lies {where}, {number(low)} to {number(high)} over "
        f"{len(spread)}."
    )


def _last_losses(run: Run) -> Iterator[tuple[str, float]]:
    for name, part in stretches(run):
        course = _course(name, part)
        if course is not None and course.losses and course.losses[0].name == "loss":
            yield _without_seed(name), course.losses[0].values[-1]


def _course(name: str, run: Run) -> Course | None:
    try:
        return read_course(name, run)
    except UNREADABLE:
        return None


def _without_seed(name: str) -> str:
    """Such as `overfit-5` of `overfit-5-seed0`: what the stretch is, whatever its seed."""
    head, _, tail = name.rpartition("-seed")
    return head if tail.isdecimal() and head else name


def _courses(names: Sequence[str], runs: Sequence[Run]) -> Iterator[Course]:
    """The runs' losses, and their accuracies, of each stretch that two of them have."""
    found: dict[str, list[tuple[str, Course]]] = {}
    for name, run in zip(names, runs, strict=True):
        for stretch, part in stretches(run):
            course = _course(stretch, part)
            if course is not None:
                found.setdefault(_without_seed(stretch), []).append((name, course))
    for stretch, courses in found.items():
        if len(courses) > 1:
            losses = tuple(
                replace(each.losses[0], name=name) for name, each in courses if each.losses
            )
            accuracies = tuple(_accuracies(courses))
            yield Course(f"compare-{stretch}", f"{stretch} of every run", losses, accuracies)


def _accuracies(courses: Sequence[tuple[str, Course]]) -> Iterator[Curve]:
    for name, course in courses:
        for curve in course.accuracies:
            yield replace(curve, name=f"{curve.name}, {name}")


def facts_of(comparison: Comparison) -> tuple[Fact, ...]:
    """Verdict and first cause of every run."""
    told = zip(comparison.names, comparison.judgements, strict=True)
    return tuple(Fact(name, _verdict(judgement)) for name, judgement in told)


def _verdict(judgement: Any) -> str:
    if judgement is None:
        return "not judged"
    lead = f": {judgement.findings[0].message}" if judgement.findings else ""
    return f"{judgement.verdict.value}{lead}"
