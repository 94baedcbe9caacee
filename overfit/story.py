"""The findings of all parts of a run as one story, culprit first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from nan_watch.causes import RULES as CAUSES
from nan_watch.rules import RULES as HEALTH
from overfit.explains import cause_of, is_placed, keeps_place
from overfit.outcome import outcome
from overfit.refuted import unless_learned
from overfit.rules import RULES
from overfit.suites import OwnParts, note_floors, read_suites
from probes import strict_json
from probes.finding import Finding, Judgement, Verdict, judge
from probes.run import Run

LARGE_STEPS = ("FIT003", "FIT010")
"""The verdicts over a step that is too large."""


BARE = ("FIT002", "FIT009", "FIT013")
"""The verdicts that know no reason but the steps or the samples, the barest first."""


def story(folder: Path) -> Judgement:
    """What checks, hunt and suites found, each part's own findings written into it as well.

    What is not finite stands first, since nothing trains until it is mended; then what the checks
    found by experiment, what the watch saw, and the verdicts that all of it explains. Whatever
    several suites ran into is told once. A step that is too large is itself the culprit of what was
    not finite. A suite that failed names a warning of the checks that can be the cause; one that
    says of a term that it is not learned is a note where all suites learned it.
    """
    seen, checked, outcomes = Judgement(), Judgement(), Judgement()
    for _, part in Run(folder).parts:
        match part.facts["settings"].get("part"):
            case "suite" | "blind" | "try":
                pass
            case "check":
                checked += part.judgement
            case _:
                seen += part.judgement
    suites = read_suites(Run(folder))
    for suite in suites:
        watched, found = _of_watch(suite.part.judgement), outcome(suite.curves)
        whole, place = watched + found, suite.part.folder
        strict_json.write(place / "findings.json", whole.as_json(place.name))
        note_floors(suite)
        if suite.leads:
            seen, outcomes = seen + watched, outcomes + found
    seen = _once(seen + judge(HEALTH, OwnParts(folder)))
    checked = unless_learned(checked, [each.curves for each in suites if each.leads])
    outcomes = _explained(_reasons_first(outcomes), checked)
    grown = any(
        each.site == "<optimizer>" and each.code in LARGE_STEPS for each in outcomes.findings
    )
    said, failed = _split(outcomes, _is_note)  # of mere notes, the verdicts lead
    born, others = _split(seen, _is_birth)
    parts = (checked, failed, seen) if grown else (born, checked, others, failed)
    return sum(parts, start=said)


def _reasons_first(outcomes: Judgement) -> Judgement:
    """The verdicts, those that say nothing but that it was not memorised after those that say why.

    The suites share model, data and optimizer, so that the reason of one is likely another's.
    """
    if not any(each.code not in BARE for each in outcomes.findings if _is_failure(each)):
        return outcomes
    bare, others = _split(outcomes, lambda each: each.code == BARE[0] and not is_placed(each))
    return others + bare


def _explained(outcomes: Judgement, checked: Judgement) -> Judgement:
    """The verdicts, of which a failure names the first finding of the checks that can be its cause.

    A warning stands below a failure, and its kind and place say whether it can have led there.
    Where a check has failed, it leads by itself, and warnings are the cause of nothing: it is
    named alone, with what it says to do. A verdict that names another place of its own keeps
    that, and what it says to do.
    """
    failed = checked.verdict.rank > Verdict.WARN.rank
    able = [each for each in checked.findings if _is_failure(each) or not failed]
    told = tuple(_told(each, able) for each in outcomes.findings)
    return Judgement(told, outcomes.not_judged, outcomes.passed)


def _told(finding: Finding, able: Iterable[Finding]) -> Finding:
    cause = cause_of(finding, able) if finding.verdict is Verdict.FAIL else None
    return finding if cause is None else _caused(finding, cause)


def _caused(finding: Finding, cause: Finding) -> Finding:
    if cause.message.rstrip(".") in finding.message:  # it was told of by the verdict itself
        return finding
    if _is_failure(cause):
        message = f"{finding.message.removesuffix('.')}; it likely follows from {cause.code}."
        return replace(finding, message=message, fix=cause.fix)
    message = f"{finding.message} The likely cause ({cause.code}): {cause.message}"
    if keeps_place(finding, cause):
        return replace(finding, message=message)
    return replace(
        finding,
        message=message,
        fix=cause.fix,
        site=cause.site,
        source=cause.source or finding.source,
        where=cause.where or finding.where,
    )


def _split(judgement: Judgement, first: Callable[[Finding], bool]) -> tuple[Judgement, Judgement]:
    """The findings of which that is so; and the others, with all else that was judged."""
    so = tuple(each for each in judgement.findings if first(each))
    others = tuple(each for each in judgement.findings if not first(each))
    return Judgement(so), replace(judgement, findings=others)


def _is_birth(finding: Finding) -> bool:
    return finding.code in {cause.code for cause in CAUSES}


def _is_failure(finding: Finding) -> bool:
    return finding.verdict is Verdict.FAIL


def _is_note(finding: Finding) -> bool:
    return finding.verdict is Verdict.NOTE


def notes(run: Run) -> tuple[str, ...]:
    """What is to be said of the suites' samples, each note once."""
    said = (note for _, part in run.parts for note in part.facts["settings"].get("notes", ()))
    return tuple(dict.fromkeys(said))


def _of_watch(judgement: Judgement) -> Judgement:
    own = {rule.code for rule in RULES}
    return Judgement(
        tuple(each for each in judgement.findings if each.code not in own),
        tuple(each for each in judgement.not_judged if each.code not in own),
        tuple(code for code in judgement.passed if code not in own),
    )


def _once(judgement: Judgement) -> Judgement:
    return Judgement(
        tuple(_first_of_each(judgement.findings)), judgement.not_judged, judgement.passed
    )


def _first_of_each(findings: Iterable[Finding]) -> Iterable[Finding]:
    told = set()
    for finding in findings:
        same = (finding.code, finding.site, finding.phase)
        if same not in told:
            told.add(same)
            yield finding
