"""A run's findings as Markdown, to be pasted into an issue or a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator

from probes.source import SourceLine
from reports.page import Page
from reports.reading.cards import Card, Measured

ROWS = 12  # of evidence, a finding
SPOKEN = 5  # findings that are told whole
SIGNS = {"ok": "🟢", "note": "🔵", "warn": "🟡", "fail": "🔴", "broken": "🟣"}


def markdown(page: Page) -> str:
    """Verdict, first cause, fix, evidence and the command to repeat it."""
    return "\n".join(_lines(page)) + "\n"


def _lines(page: Page) -> Iterator[str]:
    sign = SIGNS.get(page.verdict.value, "") if page.verdict is not None else "⚪"
    yield f"## {sign} whynan: {page.word} ({plain(page.run)})"
    for words in (*page.banners, *(f"Missing: {line}." for line in page.missing)):
        yield f"\n> {prose(words)}"
    if not page.cards:
        yield f"\n{prose(page.headline)}"
    for card in page.cards[:SPOKEN]:
        yield from _card(card)
    for card in page.cards[SPOKEN:]:
        finding = card.finding
        yield f"- **{finding.verdict} {plain(finding.code)}** {prose(finding.message)}"
    if page.not_judged:
        yield f"\nNot judged: {', '.join(plain(each.name) for each in page.not_judged)}."
    if page.command:
        yield f"\n{fenced(page.command, 'sh')}"


def _card(card: Card) -> Iterator[str]:
    finding = card.finding
    yield f"\n### {finding.verdict} {plain(finding.code)} {plain(finding.rule)}"
    yield f"\n{prose(finding.message)}"
    yield f"\n**Fix:** {prose(finding.fix)}"
    if finding.confirmed is not None:
        how = "the cause was patched, and the step came out clean" if finding.confirmed else "no"
        yield f"\n**Confirmed:** {how}."
    if card.source:
        yield "\n" + fenced("\n".join(map(_line, card.source)), "python")
    if card.story:
        yield ""
    for place, stage in enumerate(card.story, 1):
        yield f"{place}. {stage.called}: {prose(stage.words)}"
    if card.evidence:
        yield "\n| evidence | value | limit | step |\n| --- | --- | --- | --- |"
        yield from map(_row, card.evidence[:ROWS])
        if len(card.evidence) > ROWS:
            yield f"\n{len(card.evidence) - ROWS} more rows stand in the report."


def _line(line: SourceLine) -> str:
    return f"{'>' if line.culprit else ' '} {line.number:5d} {line.text}"


def _row(each: Measured) -> str:
    words = (each.what, each.value, each.limit, each.step)
    cells = (re.sub(r"(?<!\\)\|", r"\\|", prose(cell)) for cell in words)
    return f"| {' | '.join(cells)} |"


def prose(words: str) -> str:
    """The words as text: what stands in backticks as code; no markup, no mention."""
    parts = re.split(r"(`[^`]+`)", " ".join(words.split()))  # text, code, text, ...
    return "".join(part if place % 2 else _escaped(part) for place, part in enumerate(parts))


def plain(words: str) -> str:
    """The words as text alone."""
    return _escaped(" ".join(words.split()))


def _escaped(words: str) -> str:
    return re.sub(r"@(?=\w)", "@\u200b", re.sub(r"([\\`*_{}\[\]<>#+!~|])", r"\\\1", words))


def fenced(text: str, language: str) -> str:
    """The text to the letter, in a fence longer than any within."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
