"""The verdict over one suite: exactly one finding leads, and the others stand below it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from overfit.curves import Curves
from overfit.rules import RULES
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Judgement, Verdict, judge


def outcome(curves: Curves) -> Judgement:
    """What the verdict rules say: the first that fails leads, the others are warnings at most.

    A finding is confirmed where an intervention that would cure it did, alone or with others where
    none did alone, and the control did not.
    """
    found = judge(RULES, curves)
    return Judgement(tuple(_led(found.findings, curves)), found.not_judged, found.passed)


def _led(findings: tuple[Finding, ...], curves: Curves) -> Iterator[Finding]:
    lead = next((each for each in findings if each.verdict is Verdict.FAIL), None)
    for each in findings:
        told = _confirmed(each, curves)
        if each is lead:
            yield _with_seeds(told, curves)
        elif each.verdict is Verdict.FAIL:
            yield replace(told, verdict=Verdict.WARN)
        else:
            yield told


def _confirmed(finding: Finding, curves: Curves) -> Finding:
    cures = {rule.code: getattr(rule, "cures", ()) for rule in RULES}[finding.code]
    tried = [names for names in curves.tries if set(cures) & set(names)]
    control = curves.control
    if not tried or control is None or finding.confirmed is not None:
        return finding
    known = Memorised()
    cured = [names for names in tried if known.holds(curves.tries[names])]
    cured = [names for names in cured if len(names) == min(map(len, cured))]
    named = ", ".join(map(" and ".join, cured))
    named = named or "none of " + ", ".join(map(" and ".join, tried))
    evidence = (*finding.evidence, Evidence("cured by", named))
    good = bool(cured) and not known.holds(control)
    return replace(finding, confirmed=good, evidence=evidence)


def _with_seeds(finding: Finding, curves: Curves) -> Finding:
    """With what the same suite came to under other seeds."""
    if not curves.others:
        return finding
    known = Memorised()
    said = ", ".join(
        f"seed {each.seed}: {'memorised' if known.holds(each) else each.told or f'{each.end:.4g}'}"
        for each in curves.others
    )
    return replace(finding, evidence=(*finding.evidence, Evidence("other seeds", said)))
