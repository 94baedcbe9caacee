"""The findings of all parts of a run as one story, culprit first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nan_watch.rules import RULES as HEALTH
from overfit.curves import read_curves
from overfit.rules import RULES
from probes import strict_json
from probes.finding import Finding, Judgement, judge
from probes.run import Run


def story(folder: Path) -> Judgement:
    """What hunt and suites found, each part's own findings written into it as well.

    What the watch saw stands before the verdicts that it explains, and once only, however many
    suites ran into it. A step that is too large is itself the culprit of what was not finite.
    """
    seen, outcomes = Judgement(), Judgement()
    suites = []
    for name, part in Run(folder).parts:
        if part.facts["settings"].get("part") == "suite":
            suites.append((part.facts["settings"]["size"], name, part))
        else:
            seen += part.judgement
    for _, _, part in sorted(suites, key=lambda each: each[:2]):
        watched, outcome = _of_watch(part.judgement), judge(RULES, read_curves(part))
        whole = watched + outcome
        strict_json.write(part.folder / "findings.json", whole.as_json(part.folder.name))
        seen, outcomes = seen + watched, outcomes + outcome
    seen += judge(HEALTH, Run(folder))
    grown = any(each.site == "<optimizer>" for each in outcomes.findings)
    return outcomes + _once(seen) if grown else _once(seen) + outcomes


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
