"""What the checks warn of, and the suites have shown not to be so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from overfit.curves import Curves
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Judgement, Verdict

NOT_LEARNED = ("WIR015",)
"""Checks that warn that one term of the loss is not learned beside another."""


def unless_learned(checked: Judgement, suites: Sequence[Curves]) -> Judgement:
    """The same; a note where it warns that a term is not learned, and all that is counted is right.

    Several accuracies are counted then, in every suite, since one alone may be the other term's.
    """
    known = Memorised()
    counted = [len(each.heads) > 1 and each.perfect and known.holds(each) for each in suites]
    if not counted or not all(counted):
        return checked
    return replace(checked, findings=tuple(_told(each, suites) for each in checked.findings))


def _told(finding: Finding, suites: Sequence[Curves]) -> Finding:
    if finding.code not in NOT_LEARNED or finding.verdict is not Verdict.WARN:
        return finding
    largest = max(suites, key=lambda each: each.size)
    return replace(
        finding,
        verdict=Verdict.NOTE,
        fix=f"Nothing, while all of it is learned, as on {largest.suite}; else: {finding.fix}",
        evidence=(*finding.evidence, Evidence(f"right on {largest.suite}", largest.told)),
    )
