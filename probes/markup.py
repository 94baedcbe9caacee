"""Findings as a piece of HTML, for a notebook's output cell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from probes.finding import Finding, Judgement, Verdict
from probes.terminal import lines

COLOURS = {  # readable on white and on black
    Verdict.OK: ("✓", "#1f8a50"),
    Verdict.NOTE: ("i", "#2f74c6"),
    Verdict.WARN: ("!", "#a86b00"),
    Verdict.FAIL: ("✗", "#d0453c"),
    Verdict.BROKEN: ("#", "#9150c4"),
}


def judgement_html(judgement: Judgement) -> str:
    """The verdict and every finding, worst first, the first one unfolded; no script, no style."""
    return "".join(_whole(judgement))


def _whole(judgement: Judgement) -> Iterator[str]:
    yield f"<div><p>{_word(judgement.verdict)}"
    if not judgement.findings:
        yield " No rule found anything." if judgement.passed else " No rule could be judged."
    yield "</p>"
    for place, finding in enumerate(judgement.findings):
        yield _one(finding, place == 0)
    if judgement.not_judged:
        codes = ", ".join(escape(each.code) for each in judgement.not_judged)
        yield f"<p><small>Not judged: {codes}.</small></p>"
    yield "</div>"


def finding_html(finding: Finding) -> str:
    """One finding, unfolded."""
    return _one(finding, True)


def _one(finding: Finding, unfolded: bool) -> str:
    evidence = "".join(f"<li>{_ticked(line)}</li>" for line in lines(finding.evidence))
    at = f"<p>at <code>{escape(finding.source)}</code></p>" if finding.source else ""
    return (
        f"<details{' open' if unfolded else ''}><summary>{_word(finding.verdict)} "
        f"<b>{escape(finding.code)} {escape(finding.rule)}</b> {_ticked(finding.message)}</summary>"
        f"{at}<p><b>Fix:</b> {_ticked(finding.fix)}</p><ul>{evidence}</ul></details>"
    )


def _ticked(words: str) -> str:
    """The words, escaped, with what stands in backticks as code."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(words))


def _word(verdict: Verdict) -> str:
    sign, colour = COLOURS[verdict]
    return f'<b style="color:{colour}">{sign} {verdict.value}</b>'
