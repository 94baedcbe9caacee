"""Findings for the terminal: 80 columns, no colour when piped."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
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
    out = Console(highlight=False, soft_wrap=False)
    return out if out.is_terminal else Console(highlight=False, width=80)


def say(judgement: Judgement) -> None:
    """The verdict and every finding, worst first, stand on standard output."""
    out = console()
    verdict = judgement.verdict
    out.print(Text.assemble("verdict: ", (verdict.value, STYLES[verdict])))
    for finding in judgement.findings:
        _say_one(out, finding)
    if judgement.not_judged:
        codes = ", ".join(f"{each.code} ({each.why})" for each in judgement.not_judged)
        out.print(Text(f"not judged: {codes}", "dim"))


def _say_one(out: Console, finding: Finding) -> None:
    head = Text.assemble(
        (f"{finding.verdict.value} {finding.code} {finding.rule}", STYLES[finding.verdict])
    )
    out.print()
    out.print(head)
    out.print(Padding(Text(finding.message), (0, 0, 0, 2)))
    if finding.source:
        out.print(Padding(Text(f"at {finding.source}"), (0, 0, 0, 2)))
    for evidence in finding.evidence:
        out.print(Padding(Text("- " + describe(evidence), "dim"), (0, 0, 0, 2)))
    out.print(Padding(Text.assemble(("fix: ", "bold"), finding.fix), (0, 0, 0, 2)))


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
