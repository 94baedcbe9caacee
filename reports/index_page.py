"""All runs below a folder: verdicts, first causes, small curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from probes.errors import RequestError
from probes.finding import Verdict
from probes.run import Run
from reports.figures.figure import number
from reports.notebook_page import is_notebook, read_notebook
from reports.page import UNJUDGED, WORDS, is_judged
from reports.reading.courses import read_course
from reports.reading.stretches import UNREADABLE, settings, stretches

DEPTH, POINTS, WIDE, HIGH = 3, 120, 120.0, 26.0


@dataclass(frozen=True, slots=True)
class Row:
    """One run. verdict: None where it was not judged. link: to its report, None where none is."""

    name: str
    link: str | None
    verdict: Verdict | None
    word: str
    cause: str
    part: str
    subject: str
    steps: str
    loss: str
    curve: Markup
    remark: str


def rows(folder: Path) -> list[Row]:
    """A row a run below the folder, by name; what cannot be read is a row that says so.

    Raises RequestError where the folder is none, or holds no run.
    """
    if not folder.is_dir():
        raise RequestError(f"`{folder}` is no folder: name one that holds runs, such as `runs`.")
    found = sorted(_runs(folder, DEPTH))
    if not found:
        raise RequestError(
            f"`{folder}` holds no run: no folder in it has a `run.json`; name the folder that "
            "holds the run folders, such as `runs`."
        )
    return [_row(each, folder) for each in found]


def _runs(folder: Path, depth: int) -> Iterator[Path]:
    """Run folders, not their parts."""
    for path in folder.iterdir():
        if (path / "run.json").is_file():
            yield path
        elif depth > 1 and path.is_dir() and not path.is_symlink():
            yield from _runs(path, depth - 1)


def _row(path: Path, folder: Path) -> Row:
    name = path.relative_to(folder).as_posix()
    there = (path / "report.html").is_file()
    link = quote(f"{name}/report.html") if there else None
    try:
        return _read(Run(path), name, link)
    except UNREADABLE as error:
        unread = "cannot be read"
        return Row(name, link, None, UNJUDGED, str(error), "", "", "", "", Markup(""), unread)


def _read(run: Run, name: str, link: str | None) -> Row:
    judgement = run.judgement
    judged = is_judged(run, judgement)
    asked = settings(run)
    losses = _losses(run)
    return Row(
        name=name,
        link=link,
        verdict=judgement.verdict if judged else None,
        word=WORDS[judgement.verdict] if judged else UNJUDGED,
        cause=judgement.findings[0].message if judgement.findings else _summary(run),
        part=str(asked.get("part", "watch")),
        subject=str(asked.get("subject", "")),
        steps=str(sum(len(each.steps) for _, each in stretches(run)) or ""),
        loss=number(losses[-1]) if losses else "",
        curve=sparkline(losses),
        remark="" if run.complete else "incomplete",
    )


def _summary(run: Run) -> str:
    """What a notebook came to; nothing of any other run."""
    try:
        return read_notebook(run).summary if is_notebook(run) else ""
    except RequestError as none:
        return str(none)


def _losses(run: Run) -> Sequence[float]:
    """Of the longest stretch."""
    found = (read_course(name, part) for name, part in stretches(run))
    curves = [each.losses[0].values for each in found if each is not None and each.losses]
    return max(curves, key=len, default=())


def sparkline(values: Sequence[float]) -> Markup:
    """A small curve, logarithmic where it can be; a cross marks what is not finite."""
    if len(values) < 2:
        return Markup("")
    every = math.ceil(len(values) / POINTS)
    drawn = [_largest(values[at : at + every]) for at in range(0, len(values), every)]
    finite = [value for value in drawn if math.isfinite(value)]
    log = bool(finite) and min(finite) > 0
    heights = [math.log(v) if log and math.isfinite(v) else v for v in drawn]
    known = [height for height in heights if math.isfinite(height)] or [0.0]
    low, high = min(known), max(known)
    marks, points = [], []
    for place, height in enumerate(heights):
        x = 3 + (WIDE - 6) * place / max(1, len(heights) - 1)
        if math.isfinite(height):
            y = HIGH - 3 - (HIGH - 6) * (height - low) / ((high - low) or 1)
            points.append(f"{x:.4g},{y:.4g}")
        else:
            marks.append(Markup('<path d="M{:.4g} 1l4 4m0-4l-4 4" class="cross"/>').format(x - 2))
    ends = number(values[0]), number(values[-1])
    crosses = Markup("").join(marks[:40])
    return Markup(
        '<svg class="spark" viewBox="0 0 {} {}" role="img" aria-label="loss from {} to {}">'
        '<polyline points="{}"/>{}</svg>'
    ).format(WIDE, HIGH, *ends, " ".join(points), crosses)


def _largest(values: Sequence[float]) -> float:
    odd = [value for value in values if not math.isfinite(value)]
    return odd[0] if odd else max(values)
