"""Findings for the terminal: 80 columns, no colour when piped."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby

from rich.console import Console
from rich.text import Text

from probes.finding import Evidence, Finding, Judgement, Verdict

STYLES = {
    Verdict.OK: "bold green",
    Verdict.NOTE: "bold cyan",
    Verdict.WARN: "bold yellow",
    Verdict.FAIL: "bold red",
    Verdict.BROKEN: "bold magenta",
}


def console() -> Console:
    """Standard output at 80 columns when piped, at the terminal's width when not."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=80)


def say(judgement: Judgement, interrupted: bool = False) -> None:
    """The verdict and every finding, worst first, stand on standard output.

    interrupted: more might have been found, had the run come to its end.
    """
    out = console()
    verdict = judgement.verdict
    judged = bool(judgement.findings or judgement.passed)
    judged |= not (judgement.not_judged or interrupted)
    word, style = (verdict.value, STYLES[verdict]) if judged else ("not judged", "bold")
    if interrupted:
        calm = judged and verdict.rank <= Verdict.NOTE.rank
        word += " so far (interrupted)" if calm else " (interrupted)"
    out.print(Text.assemble("verdict: ", (word, style)))
    for finding in judgement.findings:
        _say_one(out, finding)
    if judgement.passed or judgement.not_judged:
        _print(out, counts(judgement), "dim", hanging="")


def counts(judgement: Judgement) -> str:
    """How many rules passed and how many could not be judged."""
    passed, lacking = len(judgement.passed), len({each.code for each in judgement.not_judged})
    why = "; the report says why" if lacking else ""
    return f"{passed} {'rule' if passed == 1 else 'rules'} passed, {lacking} not judged{why}."


def _say_one(out: Console, finding: Finding) -> None:
    style = STYLES[finding.verdict]
    out.print()
    out.print(Text(f"{finding.verdict.value} {finding.code} {finding.rule}", style))
    _print(out, finding.message)
    if finding.source:
        _print(out, f"at {finding.source}")
    for line in lines(finding.evidence):
        _print(out, "- " + line, "dim", hanging="    ")
    _print(out, "fix: " + finding.fix, "bold")


def _print(out: Console, words: str, style: str = "", hanging: str = "  ") -> None:
    """The words, two columns in, broken at the console's width."""
    first = "  " if hanging else ""
    folded = textwrap.fill(
        words, out.width, initial_indent=first, subsequent_indent=hanging, break_on_hyphens=False
    )
    out.print(Text(folded, style), soft_wrap=True)


def lines(evidence: Iterable[Evidence]) -> Iterator[str]:
    """The evidence in words, one line each; what was read step after step shares a line."""
    for _, group in groupby(evidence, lambda each: (each.what, each.limit, each.unit)):
        same = list(group)
        steps = [each.step for each in same]
        if len(same) == 1 or None in steps:
            yield from map(describe, same)
        else:
            values = ", ".join(number(each.value) for each in same)
            yield f"{same[0].what}, steps {steps[0]} to {steps[-1]}: {values}"


def describe(evidence: Evidence) -> str:
    """The evidence in words: what, value, limit, unit and step."""
    words = f"{evidence.what}: {number(evidence.value)}"
    if evidence.unit:
        words += f" {evidence.unit}"
    if evidence.limit is not None:
        words += f" (limit {number(evidence.limit)})"
    return words + (f" at step {evidence.step}" if evidence.step is not None else "")


def number(value: float | int | str | None) -> str:
    """Four significant digits for a float, everything else as it is."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
