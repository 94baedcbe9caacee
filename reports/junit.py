"""A run's findings as JUnit XML: a rule is a test case, what it found is its failure."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from probes.finding import Verdict
from reports.page import Page
from reports.reading.cards import Card

BAD = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # no XML can hold these


def junit(page: Page) -> str:
    """The suite: warnings and failures fail, a broken rule is an error, notes pass and are told.

    A run that was cut off, or whose findings are not there, is an error: no green is owed to it.
    """
    lacking = page.verdict is None and not page.not_judged
    torn = page.whole and (lacking or not page.complete)
    failed = [card for card in page.cards if card.finding.verdict in (Verdict.WARN, Verdict.FAIL)]
    broken = [card for card in page.cards if card.finding.verdict is Verdict.BROKEN]
    count = len(page.cards) + len(page.passed) + len(page.not_judged) + torn
    suite = ET.Element(
        "testsuite",
        name=_text(f"whynan {page.run}"),
        tests=str(count),
        failures=str(len(failed)),
        errors=str(len(broken) + torn),
        skipped=str(len(page.not_judged)),
    )
    if torn:
        case = ET.SubElement(suite, "testcase", classname="whynan", name="the record")
        said = "\n".join((*page.banners, *(f"Missing: {line}." for line in page.missing)))
        ET.SubElement(case, "error", message=_text(said), type="record")
    for card in page.cards:
        _case(suite, card)
    for code in page.passed:
        ET.SubElement(suite, "testcase", classname="whynan", name=_text(code))
    for each in page.not_judged:
        case = ET.SubElement(suite, "testcase", classname="whynan", name=_text(each.name))
        ET.SubElement(case, "skipped", message=_text(each.value))
    ET.indent(suite)
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    return head + ET.tostring(suite, encoding="unicode") + "\n"


def _case(suite: ET.Element, card: Card) -> None:
    finding = card.finding
    place = f" {finding.site}" if finding.site else ""
    name = f"{finding.code} {finding.rule}{place}"
    case = ET.SubElement(suite, "testcase", classname="whynan", name=_text(name))
    file, _, line = (finding.source or "").rpartition(":")
    if file and line.isdigit():
        case.set("file", _text(file))
        case.set("line", line)
    kinds = {Verdict.WARN: "failure", Verdict.FAIL: "failure", Verdict.BROKEN: "error"}
    kind = kinds.get(finding.verdict, "system-out")
    told = ET.SubElement(case, kind)
    if kind != "system-out":
        told.set("message", _text(finding.message))
        told.set("type", finding.verdict.value)
    told.text = _text("\n".join([finding.message, f"fix: {finding.fix}", *_evidence(card)]))


def _evidence(card: Card) -> list[str]:
    story = [f"{stage.called}: {stage.words}" for stage in card.story]
    return story + [f"{each.what}: {each.value} (limit {each.limit})" for each in card.evidence]


def _text(words: str) -> str:
    return BAD.sub("\ufffd", words)
