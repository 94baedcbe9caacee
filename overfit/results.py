"""What the experiments of a notebook came to, read from their records: its data, and its page's."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from overfit.curves import Accuracy, Curves, read_curves
from overfit.differences import compared
from overfit.notebook import Bug, Entry, Notebook
from probes.finding import Finding
from probes.run import Run

State = Literal["complete", "incomplete", "not run"]


@dataclass(frozen=True, slots=True)
class Said:
    """A finding, the move that said it first, and the seconds from the process's start till then.

    by: `check`, `hunt`, `suite` or `course`. seconds: None where it was not noted.
    """

    finding: Finding
    by: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a suite ended. heads: name -> hits and count at its last evaluation."""

    size: int
    seed: int
    unit: str
    ended: str | None
    steps: int
    loss: float
    heads: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Swing:
    """A head over the looks of a course.

    first, last: hits and count in the first and the last quarter of the looks. swing: standard
    deviation of its accuracy from look to look, in the second half. chance: what counting alone
    gives there.
    """

    first: tuple[float, float]
    last: tuple[float, float]
    swing: float
    chance: float


@dataclass(frozen=True, slots=True)
class Went:
    """How a course went."""

    what: str
    steps: int
    asked: int
    ended: str | None
    said: str | None
    heads: Mapping[str, Swing]


@dataclass(frozen=True, slots=True)
class Result:
    """What one experiment came to.

    why: what stopped it, where something did. said: findings, worst first. compared: how it
    differs from the experiment before it. seconds: until all of it was done.
    """

    entry: Entry
    state: State
    why: str | None = None
    verdict: str | None = None
    said: tuple[Said, ...] = ()
    reached: tuple[Reached, ...] = ()
    course: Went | None = None
    compared: str | None = None
    seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The result as `results.json` holds it."""
        row = asdict(replace(self, entry=None))  # type: ignore[arg-type]  # it holds functions
        del row["entry"]
        entry = self.entry
        return {
            "name": entry.name,
            "set": dict(entry.settings),
            "remark": entry.remark,
            "notes": list(entry.notes),
            "same_as": entry.same_as,
            **row,
        }


@dataclass(frozen=True, slots=True)
class Found:
    """A bug that is known by now, and what names it.

    entry: the last experiment that has it and says so, or the last that has it. said: the first
    finding of its codes there that the first experiment without it does not say any more; None
    where there is none, and `why` says why.
    """

    bug: Bug
    entry: str
    said: Said | None
    why: str | None


def read_results(notebook: Notebook, folder: Path) -> tuple[Result, ...]:
    """The result of every entry, in order, each compared with the one before that was run."""
    results: dict[str, Result] = {}
    before: Result | None = None
    ran: dict[str, str] = {}  # by entry, the one whose run tells of it
    for entry in notebook.entries:
        result = _read(entry, folder / "parts" / entry.name)
        words = []
        first = results.get(entry.same_as or "")
        ran[entry.name] = entry.name
        if result.state == "not run" and first is not None and first.state != "not run":
            result = replace(first, entry=entry)
            ran[entry.name] = ran[first.entry.name]
            words = [
                f"Nothing that runs here differs from `{entry.same_as}`: it was not run again."
            ]
        if result.state != "not run":
            if before is not None and ran[entry.name] != ran[before.entry.name]:
                words += compared(before.entry.name, before.reached, result.reached)
            before = result
        results[entry.name] = replace(result, compared=" ".join(words) or None)
    usual = {_same(said) for said in results[notebook.reference].said} if notebook.reference else ()
    return tuple(_unusual_first(each, usual) for each in results.values())


def _unusual_first(result: Result, usual: Collection[tuple[str, str | None]]) -> Result:
    """Of equal verdicts, what the reference says too comes last."""
    if not usual:
        return result
    said = sorted(result.said, key=lambda each: (-each.finding.verdict.rank, _same(each) in usual))
    return replace(result, said=tuple(said))


def read_found(notebook: Notebook, results: Sequence[Result]) -> tuple[Found, ...]:
    """What names each of the known bugs."""
    return tuple(_found(bug, results) for bug in notebook.bugs)


def _found(bug: Bug, results: Sequence[Result]) -> Found:
    place = next(i for i, each in enumerate(results) if each.entry.name == bug.last)
    after = results[place + 1 : place + 2]
    still = {_same(said) for each in after for said in each.said}
    named = False
    for here in reversed(results[: place + 1]):
        said = [each for each in here.said if each.finding.code in bug.codes]
        ours = [each for each in said if _same(each) not in still]
        if ours:
            return Found(bug, here.entry.name, min(ours, key=_when), None)
        named |= bool(said)
    if named:
        why = f"not named: `{after[0].entry.name}`, which is without it, says the same"
    else:
        why = {"complete": "not named", "incomplete": "not run to its end", "not run": "not run"}[
            results[place].state
        ]
    return Found(bug, bug.last, None, why)


def _when(said: Said) -> float:
    return math.inf if said.seconds is None else said.seconds


def _same(said: Said) -> tuple[str, str | None]:
    return said.finding.code, said.finding.site


def _read(entry: Entry, folder: Path) -> Result:
    if not (folder / "run.json").is_file():
        return Result(entry, "not run")
    run = Run(folder)
    asked = run.facts.get("settings", {})
    judgement = run.judgement
    parts = dict(run.parts)
    curves = [read_curves(part) for part in parts.values() if _part(part) == "suite"]
    course = [_went(part) for part in parts.values() if _part(part) == "course"]
    why = asked.get("wrong") or (None if run.complete else "it was cut off")
    judged = (folder / "findings.json").is_file() and (run.complete or bool(judgement.findings))
    return Result(
        entry=entry,
        state="complete" if run.complete else "incomplete",
        why=why,
        verdict=judgement.verdict.value if judged else None,
        said=tuple(_said(judgement.findings, parts, asked.get("times", {}))),
        reached=tuple(sorted(map(_reached, curves), key=lambda each: (each.size, each.seed))),
        course=course[0] if course else None,
        seconds=asked.get("seconds"),
    )


def _part(run: Run) -> str:
    return str(run.facts.get("settings", {}).get("part", ""))


def _said(
    findings: Sequence[Finding], parts: Mapping[str, Run], times: Mapping[str, Mapping[str, float]]
) -> Iterator[Said]:
    """Every finding with the part that ended first of those that say it."""
    first: dict[tuple[str, str | None], tuple[float, str]] = {}
    for name, part in parts.items():
        ended = times.get(name, {})
        for finding in part.judgement.findings:
            at = ended.get(finding.code, ended.get("", math.inf))
            same = finding.code, finding.site
            first[same] = min(first.get(same, (math.inf, _part(part))), (at, _part(part)))
    for finding in findings:
        at, by = first.get((finding.code, finding.site), (math.inf, "suite"))
        yield Said(finding, by, at if math.isfinite(at) else None)


def _reached(curves: Curves) -> Reached:
    return Reached(
        size=curves.size,
        seed=curves.seed,
        unit=curves.unit,
        ended=curves.ended,
        steps=len(curves.losses),
        loss=curves.end if curves.losses else math.nan,
        heads={name: (head.hits[-1], head.counts[-1]) for name, head in curves.heads.items()},
    )


def _went(run: Run) -> Went:
    asked = run.facts["settings"]
    curves = read_curves(run_as_suite(run))
    return Went(
        what=asked["what"],
        steps=len(curves.losses),
        asked=asked["steps"],
        ended=asked.get("ended"),
        said=asked.get("said"),
        heads={name: _swing(head) for name, head in curves.heads.items()},
    )


def run_as_suite(run: Run) -> Run:
    """The run with what `read_curves` asks of a suite, where it has it not."""
    run.facts["settings"] = {"size": 0, "seed": 0} | run.facts["settings"]
    return run


def _swing(head: Accuracy) -> Swing:
    hits, counts = head.hits, head.counts
    quarter, half = max(1, len(hits) // 4), len(hits) // 2
    late = [hit / count for hit, count in zip(hits[half:], counts[half:], strict=True)]
    rate = sum(hits[half:]) / sum(counts[half:])
    mean = fmean(late)
    return Swing(
        first=(sum(hits[:quarter]), sum(counts[:quarter])),
        last=(sum(hits[-quarter:]), sum(counts[-quarter:])),
        swing=math.sqrt(fmean((each - mean) ** 2 for each in late)),
        chance=math.sqrt(rate * (1 - rate) * fmean(1 / count for count in counts[half:])),
    )
