"""Lays a run out as one HTML file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from probes.run import Run
from reports.figures import attention, curves, gradients
from reports.figures.attention import Attention
from reports.figures.figure import Figure, identifier
from reports.notebook_page import NotebookPage, is_notebook, read_notebook
from reports.page import Page, read_page

ATTENTION = 350_000  # characters of a page that attention maps may take


@dataclass(frozen=True, slots=True)
class Section:
    """Figures under one heading."""

    title: str
    figures: tuple[Figure, ...]


def render(folder: Path) -> Path:
    """`report.html` in the run folder tells of the run; returns its path.

    The same record gives the same bytes. Raises RequestError where the folder is no run folder.
    """
    report = folder / "report.html"
    fresh = report.with_name("report.html.new")
    fresh.write_text(_laid_out(Run(folder)), encoding="utf-8")
    fresh.replace(report)
    return report


def _laid_out(run: Run) -> str:
    return notebook_html(read_notebook(run)) if is_notebook(run) else html(read_page(run))


def notebook_html(page: NotebookPage) -> str:
    """The page of a notebook as one file that needs no other."""
    template = _environment().get_template("notebook.html")
    css = _beside("page.css") + _beside("notebook.css")
    return template.render(page=page, css=css, js=_beside("page.js"))


def html(page: Page) -> str:
    """The page as one file that needs no other."""
    maps, left_out = chosen(page.attention)
    courses = tuple(curves.draw(course) for course in page.courses)
    norms = tuple(gradients.draw(each.matrix, each.part, each.stat) for each in page.gradients)
    sections = {
        "overfit": courses,
        "grad": norms,
        "attention": [f for s in maps for f in s.figures],
    }
    ids = {figure.id for figures in sections.values() for figure in figures}
    ids |= {card.id for card in page.cards} | {"verdict", "findings", *sections}
    return (
        _environment()
        .get_template("report.html")
        .render(
            page=page,
            courses=courses,
            norms=norms,
            maps=maps,
            left_out=left_out,
            address=lambda anchor: anchor is not None and identifier(anchor) in ids,
            css=_beside("page.css"),
            js=_beside("page.js"),
        )
    )


def chosen(
    maps: Sequence[Attention], room: int = ATTENTION
) -> tuple[tuple[Section, ...], str | None]:
    """The maps that fit the page by sample, and what is said of the others.

    Those that look from one kind of thing at another stand before the others of their sample.
    The worst is drawn first, then the first and the last, then such maps, then all in order,
    until the room, in characters, is used up.
    """
    samples = list(dict.fromkeys(map_.sample for map_ in maps))
    maps = sorted(maps, key=lambda map_: (samples.index(map_.sample), not map_.crosses))
    worst = max(range(len(maps)), key=lambda place: maps[place].badness, default=0)
    crossing = [place for place, map_ in enumerate(maps) if map_.crosses]
    order = dict.fromkeys([worst, 0, len(maps) - 1, *crossing, *range(len(maps))] if maps else [])
    drawn: dict[int, Figure] = {}
    size = 0
    for place in order:
        figure = attention.draw(maps[place])
        if size + figure.size > room and drawn:
            break
        drawn[place], size = figure, size + figure.size
    places = sorted(drawn)
    sections = tuple(
        Section(sample, tuple(drawn[place] for place in group))
        for sample, group in groupby(places, key=lambda place: maps[place].sample)
    )
    said = None
    if len(drawn) < len(maps):
        said = (
            f"{len(drawn)} of {len(maps)} maps are drawn, the worst, the first and the last among "
            "them; all of them are arrays in the run folder."
        )
    return sections, said


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"identifier": identifier, "ticked": ticked}
    return made


def ticked(words: str) -> Markup:
    """The words, escaped, with what stands in backticks as code."""
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(words))))


def _beside(name: str) -> Markup:
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))
