"""What is found, how sure it is, and how rules are judged.

A rule is a frozen dataclass: its fields are its limits, its docstring is what `whynan explain`
prints. There are four families, by what they read; each is one Protocol below.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast

from probes.guess_words import in_words

Phase = Literal["data", "forward", "backward", "update"]


class Verdict(StrEnum):
    """How bad it is, from fine to worst."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"
    BROKEN = "broken"

    @property
    def rank(self) -> int:
        """0 for ok to 4 for broken."""
        return list(Verdict).index(self)


def out_of(hits: float, count: float) -> str:
    """`14 of 15`; `14.34 of 15`, cut off and not rounded, so that nearly all is not called all."""
    cut = math.floor(100 * hits + 1e-6) / 100 if math.isfinite(hits) else hits
    return f"{cut:.10g} of {count:.10g}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A number against its limit, with where in the report it can be seen."""

    what: str
    value: float | int | str | None
    limit: float | int | str | None = None
    unit: str | None = None
    step: int | None = None
    anchor: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is so, culprit first.

    site: a module's dotted name, its parts as `decoder.cell[0]` or `model.logits`, or one of
        `<loss>`, `<optimizer>`, `<data>`.
    op, node: operator without overload (`aten.log`); autograd node of a backward birth.
    step: optimizer steps attempted before, from 0.
    source: `file.py:line` of the user's own code.
    batch, samples: index of the batch, and indices within it.
    where: coordinates by axis name.
    confirmed: whether a patch of the cause cured it; None where no patch applies.
    """

    code: str
    rule: str
    verdict: Verdict
    message: str
    fix: str
    site: str | None = None
    op: str | None = None
    node: str | None = None
    phase: Phase | None = None
    step: int | None = None
    source: str | None = None
    batch: int | None = None
    samples: tuple[int, ...] | None = None
    where: Mapping[str, int | str] = field(default_factory=dict)
    confirmed: bool | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def anchor(self) -> str:
        """The finding's address in a report, such as `NAN003-decoder-cell`."""
        place = re.sub(r"[^A-Za-z0-9_]+", "-", self.site or "").strip("-")
        return f"{self.code}-{place}" if place else self.code

    def as_json(self) -> dict[str, Any]:
        """The finding as `findings.json` holds it."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """The finding in a notebook."""
        from probes.markup import finding_html

        return finding_html(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Finding:
        """The finding that `as_json` wrote; a number that was not finite is one again."""
        known = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
        known["verdict"] = Verdict(row["verdict"])
        known["evidence"] = tuple(_evidence(item) for item in row.get("evidence", ()))
        if row.get("samples") is not None:
            known["samples"] = tuple(row["samples"])
        return cls(**known)


def _evidence(row: Mapping[str, Any]) -> Evidence:
    known = {name: row[name] for name in Evidence.__dataclass_fields__ if name in row}
    if "nonfinite" in row:
        odd = "value" if row.get("value") is None else "limit"
        known[odd] = float(row["nonfinite"])
    return Evidence(**known)


@dataclass(frozen=True, slots=True)
class NotJudged:
    """A rule that could not be judged, and why."""

    code: str
    why: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules said: findings worst first, what was not judged, codes that passed."""

    findings: tuple[Finding, ...] = ()
    not_judged: tuple[NotJudged, ...] = ()
    passed: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the findings; ok where there is none."""
        return max((each.verdict for each in self.findings), key=_rank, default=Verdict.OK)

    @property
    def exit_status(self) -> int:
        """0 nothing worse than a note, 1 something found, 3 a rule is broken."""
        if self.verdict is Verdict.BROKEN:
            return 3
        return int(self.verdict.rank > Verdict.NOTE.rank)

    def _repr_html_(self) -> str:
        """The findings in a notebook."""
        from probes.markup import judgement_html

        return judgement_html(self)

    def __add__(self, other: Judgement) -> Judgement:
        """Both together, worst first; a code that found something has not passed."""
        findings = tuple(sorted(self.findings + other.findings, key=_worst_first))
        found = {each.code for each in findings}
        passed = dict.fromkeys(self.passed + other.passed)
        not_judged = dict.fromkeys(self.not_judged + other.not_judged)
        return Judgement(
            findings, tuple(not_judged), tuple(code for code in passed if code not in found)
        )

    def as_json(self, run: str) -> dict[str, Any]:
        """The content of `findings.json` for the run of this name."""
        return {
            "schema": 1,
            "run": run,
            "verdict": self.verdict,
            "findings": [finding.as_json() for finding in self.findings],
            "not_judged": [asdict(each) for each in self.not_judged],
            "passed": list(self.passed),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Judgement:
        """The judgement that `as_json` wrote."""
        return cls(
            tuple(Finding.from_json(each) for each in row["findings"]),
            tuple(NotJudged(each["code"], each["why"]) for each in row["not_judged"]),
            tuple(row["passed"]),
        )


def _rank(verdict: Verdict) -> int:
    return verdict.rank


def _worst_first(finding: Finding) -> int:
    return -finding.verdict.rank


Material = TypeVar("Material", contravariant=True)


class Rule(Protocol[Material]):
    """One thing that can be so, with the limits past which it is."""

    code: ClassVar[str]
    rule: ClassVar[str]

    def lacks(self, material: Material, /) -> str | None:
        """Why the rule cannot be judged on this material; None where it can."""

    def judge(self, material: Material, /) -> Iterator[Finding]:
        """What is found, which is nothing when all is well."""


class Cause(Rule[Material], Protocol[Material]):
    """A cause (NAN...) judges the ledger of a replayed step; lives in `nan_watch/causes/`."""

    family: ClassVar[Literal["cause"]]


class Health(Rule[Material], Protocol[Material]):
    """A health rule (GRD...) judges the readings of a run; lives in `nan_watch/rules/`."""

    family: ClassVar[Literal["health"]]


class Check(Rule[Material], Protocol[Material]):
    """A check (MSK, IDX, LBL, STA, WIR...) judges a Subject by experiment; `probes/checks/`.

    One with a class variable `slow`, true, is left out by `--quick`.
    """

    family: ClassVar[Literal["check"]]


class Outcome(Rule[Material], Protocol[Material]):
    """A verdict (FIT...) judges the curves of a suite with its floors; in `overfit/rules/`."""

    family: ClassVar[Literal["verdict"]]


def judge(rules: Iterable[Rule[Material]], material: Material) -> Judgement:
    """What every rule says of the material; a rule that raises is BROKEN, never healthy."""
    judgement = Judgement()
    for rule in rules:
        judgement += judge_one(rule, material)
    return judgement


class ExperimentError(Exception):
    """An experiment that a rule needs could not be made; its message says why."""


def judge_one(rule: Rule[Material], material: Material) -> Judgement:
    """What one rule says of the material; not judged from where an experiment fails on."""
    findings: list[Finding] = []
    try:
        why = rule.lacks(material)
        if why is not None:
            return Judgement(not_judged=(NotJudged(rule.code, why),))
        findings.extend(rule.judge(material))
    except ExperimentError as reason:
        return Judgement(tuple(findings), (NotJudged(rule.code, str(reason)),))
    except Exception as error:
        return Judgement(findings=(_broken(rule, error), *findings))
    return Judgement(tuple(findings), passed=() if findings else (rule.code,))


def _broken(rule: Rule[Any], error: Exception) -> Finding:
    return Finding(
        code=rule.code,
        rule=rule.rule,
        verdict=Verdict.BROKEN,
        message=f"rule {rule.code} ({rule.rule}) raised {type(error).__name__}: {error}",
        fix="Report this as a bug of the rule; what it looks for was not judged.",
        evidence=(Evidence("exception", type(error).__name__),),
    )


def limits(rules: Iterable[Rule[Any]]) -> dict[str, dict[str, Any]]:
    """The limits in force: every rule's fields, by its code."""
    return {rule.code: asdict(cast(Any, rule)) for rule in rules}


def resting_on(finding: Finding, lines: Iterable[str]) -> Finding:
    """The finding as it is where nothing was guessed; else at most a warning that says so."""
    lines = list(dict.fromkeys(lines))
    if not lines:
        return finding
    return replace(
        finding,
        verdict=min(finding.verdict, Verdict.WARN, key=lambda verdict: verdict.rank),
        fix=f"{finding.fix} It rests on a guess, {in_words(lines)}, which "
        f"`layout=Layout({', '.join(lines)})` in the `Subject` would declare.",
    )
