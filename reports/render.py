"""Lays a run out as one HTML file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from probes.errors import RequestError
from probes.run import NewerRecordError, Run
from reports.comparison import Comparison, compare, facts_of
from reports.figures import curves
from reports.figures.figure import Figure, identifier
from reports.gallery import ALONE, ROOM, gallery
from reports.index_page import rows
from reports.notebook_page import NotebookPage, is_notebook, read_notebook
from reports.page import Fact, Page, level, read_page
from reports.reading.cards import Card
from reports.reading.stretches import settings
from reports.sections import LARGEST, MEASURED, fitting, later, sections
from reports.sections import ROOM as OF_A_SECTION

CARDS, ROWS, WORDS = 150, 400, 4000  # findings, rows of a table, characters of one text
SPANS = 12  # of numbers in a row
SMALL = (1.0, 0.25, 0.05)  # shares of the rooms that are tried in turn


def render(folder: Path) -> Path:
    """`report.html` in the run folder tells of the run; returns its path.

    The same record gives the same bytes. Of a record that is newer than this version the page
    says so. Raises RequestError where the folder is no run folder.
    """
    report = folder / "report.html"
    fresh = report.with_name("report.html.new")
    try:
        text = text_of(Run(folder))
    except NewerRecordError as newer:
        text = framed("unread.html", name=folder.name, why=str(newer))
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(report)
    return report


def text_of(run: Run) -> str:
    """The run's whole page: that of a notebook or of a comparison where it is one.

    A comparison is made again of the runs that it names, wherever they are still there.
    """
    if is_notebook(run):
        return notebook_html(read_notebook(run))
    asked = settings(run)
    named = asked.get("runs")
    if asked.get("part") == "comparison" and isinstance(named, list):
        try:
            return compared(compare([Path(str(each)) for each in named]))
        except RequestError as gone:
            return framed("unread.html", name=run.folder.name, why=str(gone))
    return html(read_page(run))


def notebook_html(page: NotebookPage) -> str:
    """The page of a notebook as one file that needs no other."""
    template = _environment().get_template("notebook.html")
    css = _beside("page.css") + _beside("notebook.css")
    return template.render(page=page, css=css, js=_beside("page.js"))


def render_index(folder: Path) -> Path:
    """`index.html` in the folder tells of every run below it; returns its path.

    Raises RequestError where the folder is none, or holds no run.
    """
    found = rows(folder)
    counts = Counter(row.word for row in found)
    name = folder.resolve().name or str(folder)
    text = framed("index.html", rows=found, name=name, counts=sorted(counts.items()))
    page = folder / "index.html"
    page.write_text(text, encoding="utf-8")
    return page


def compared(comparison: Comparison) -> str:
    """The comparison as one file that needs no other."""
    figures = fitting([curves.draw(course) for course in comparison.courses], OF_A_SECTION * 4)
    verdicts = facts_of(comparison)
    return framed("compare.html", comparison=comparison, verdicts=verdicts, figures=figures)


def framed(template: str, **content: object) -> str:
    """The template with this content, styles and script."""
    beside = {"css": _beside("page.css"), "js": _beside("page.js")}
    return _environment().get_template(template).render(**content, **beside)


def html(page: Page) -> str:
    """The page as one file that needs no other; smaller and smaller rooms until it is small."""
    page, said = _bounded(page)
    text = ""
    for share in SMALL:
        cut = () if share == SMALL[0] else (*said, _said(len(text.encode())))
        text = _laid_out(replace(page, banners=(*page.banners, *(cut or said))), share)
        if len(text.encode()) <= LARGEST:
            break
    return text


def _said(size: int) -> str:
    return (
        f"The whole page would be of {size:,} bytes: of every kind of figure the first, the last "
        "and the worst are kept, and others while there is room; all numbers are in the run folder."
    )


def _bounded(page: Page) -> tuple[Page, tuple[str, ...]]:
    """The page with no list longer than a person reads, and what was left out."""
    said = []
    if len(page.cards) > CARDS:
        said.append(
            f"{CARDS} of {len(page.cards)} findings stand here, worst first; all of them are in "
            "findings.json."
        )
    parts = tuple((name, _few(facts)) for name, facts in page.parts[:ROWS])
    bounded = replace(
        page,
        headline=_short(page.headline),
        cards=tuple(map(_short_card, page.cards[:CARDS])),
        passed=page.passed[:ROWS],
        not_judged=_few(page.not_judged),
        facts=_few(page.facts),
        parts=parts,
        environment=_few(page.environment),
        limits=_few(page.limits),
    )
    return bounded, tuple(said)


def _few(facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """So many of them, none too long."""
    return tuple(replace(fact, value=_short(fact.value)) for fact in facts[:ROWS])


def _short_card(card: Card) -> Card:
    finding = card.finding
    told = replace(finding, message=_short(finding.message), fix=_short(finding.fix))
    evidence = tuple(
        replace(each, what=_short(each.what), value=_short(each.value))
        for each in card.evidence[:ROWS]
    )
    return replace(card, finding=told, evidence=evidence, story=card.story[:ROWS])


def _short(words: str) -> str:
    if len(words) <= WORDS:
        return words
    return f"{words[:WORDS]} … ({len(words)} characters)"


def _laid_out(page: Page, share: float) -> str:
    before, behind = (tuple(which(page, int(OF_A_SECTION * share))) for which in (sections, later))
    room = int((ROOM if page.whole else ALONE) * share)
    maps = gallery(page.attention, room, page.asked)
    figures = [f for s in (*before, *behind) for f in s.figures]
    figures += [figure for group in maps.groups for figure in group.figures]
    ids = {figure.id for figure in figures} | {card.id for card in page.cards}
    kept = [f for s in (*before, *behind) if s.id == MEASURED for f in s.figures]
    ids |= {"verdict", "findings", *(s.id for s in (*before, *behind) if s.figures)}
    return framed(
        "report.html",
        page=page,
        before=before,
        behind=behind,
        maps=maps,
        address=lambda anchor: anchor is not None and identifier(anchor) in ids,
        measured=lambda rule: _of_rule(kept, rule),
    )


def _of_rule(kept: Sequence[Figure], rule: str) -> Figure | None:
    """The worst figure of what the rule's check measured, whose array is called after it."""
    called = re.compile(rf"array-(.+-)?{re.escape(identifier(rule))}(-|$)")
    found = [figure for figure in kept if called.match(figure.id)]
    return max(found, key=lambda figure: figure.badness, default=None)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"sort_keys": True, "ensure_ascii": False}
    made.filters |= {
        "identifier": identifier,
        "level": level,
        "ticked": ticked,
        "sentence": sentence,
        "spans": spans,
    }
    return made


def ticked(words: str) -> Markup:
    """The words, escaped, with what stands in backticks as code."""
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(words))))


def sentence(words: str) -> Markup:
    """The words as `ticked` gives them, with a capital where they begin with a letter."""
    return ticked(words[:1].upper() + words[1:])


def spans(places: Sequence[int]) -> str:
    """The numbers in words, three or more in a row as a span, such as `0 to 15, 20`.

    Of more than twelve such spans the rest is counted.
    """
    rows: list[list[int]] = []
    for place in places:
        if rows and place == rows[-1][-1] + 1:
            rows[-1].append(place)
        else:
            rows.append([place])
    shown, rest = rows[:SPANS], sum(map(len, rows[SPANS:]))
    told = (f"{row[0]} to {row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in shown)
    return ", ".join(told) + (f" and {rest} more" if rest else "")


def _beside(name: str) -> Markup:
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))
