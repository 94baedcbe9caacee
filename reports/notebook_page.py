"""The page of a notebook: what `results.json` holds, laid out as one HTML file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probes.errors import RequestError
from probes.finding import Finding
from probes.run import Run
from reports.figures.figure import Table, identifier, number
from reports.page import command_of, flat, mapping
from reports.reading.stretches import UNREADABLE, settings

NOT_RUN = "not run"
SECTIONS = ("verdict", "bugs", "table", "experiments", "appendix")
ENDED = {
    "memorised": "memorised",
    "steps": "after its last step",
    "refused": "at a step that was refused",
    "died": "by an exception",
    None: "cut off",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting and its value, as it is to be read."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Told:
    """A finding, what said it, and after how many seconds."""

    finding: Finding
    by: str
    seconds: str


@dataclass(frozen=True, slots=True)
class Bug:
    """A row of the first table."""

    name: str
    what: str
    cost: str
    entry: str
    said: Finding | None
    by: str
    seconds: str
    why: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One experiment. level: its verdict, or `unjudged`. word: what stands for it in words."""

    name: str
    set: tuple[Setting, ...]
    remark: str
    notes: tuple[str, ...]
    level: str
    word: str
    why: str
    lead: Finding | None
    by: str
    seconds: str
    unsaid: str
    others: tuple[Told, ...]
    suites: Table
    course: str
    compared: str
    folder: str


@dataclass(frozen=True, slots=True)
class NotebookPage:
    """Everything that the page of a notebook says.

    addresses: where the entry of a name stands. not_run: names of those without an entry.
    """

    run: str
    title: str
    summary: str
    notes: tuple[str, ...]
    banners: tuple[str, ...]
    bugs: tuple[Bug, ...]
    entries: tuple[Entry, ...]
    addresses: Mapping[str, str]
    not_run: tuple[str, ...]
    environment: tuple[Setting, ...]
    command: str


def is_notebook(run: Run) -> bool:
    """Whether the run is one of a notebook's."""
    return settings(run).get("part") == "notebook"


def read_notebook(run: Run) -> NotebookPage:
    """What there is to say of the notebook's run, from its record alone.

    Raises RequestError where it came to no results, or to none that can be read.
    """
    path = run.folder / "results.json"
    if not path.is_file():
        raise RequestError(
            f"`{run.folder}` holds no `results.json`: the notebook was killed before it could "
            "write one; go on with it by `--out` and `--resume`."
        )
    try:
        return _page(run, json.loads(path.read_text(encoding="utf-8")))
    except UNREADABLE as error:
        raise RequestError(
            f"`{path}` cannot be read ({type(error).__name__}: {error}): go on with the notebook "
            "by `--out` and `--resume`, which writes it again."
        ) from error


def _page(run: Run, rows: Mapping[str, Any]) -> NotebookPage:
    ran = [row for row in rows["results"] if row["state"] != NOT_RUN]
    return NotebookPage(
        run=str(run.facts.get("run", run.folder.name)),
        title=rows["title"] or f"`{settings(run).get('notebook')}`",
        summary=_summary(rows["results"]),
        notes=tuple(rows["notes"]),
        banners=tuple(_banners(run, rows["results"])),
        bugs=tuple(map(_bug, rows["bugs"])),
        entries=tuple(map(_entry, ran)),
        addresses=_addresses([row["name"] for row in ran]),
        not_run=tuple(str(row["name"]) for row in rows["results"] if row["state"] == NOT_RUN),
        environment=tuple(_environment(run)),
        command=command_of(run),
    )


def _addresses(names: Sequence[str]) -> Mapping[str, str]:
    """An address in the page for every name, no two alike and none of a section."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        address, taken = identifier(name), {*found.values(), *SECTIONS}
        count = sum(each == address or each.startswith(f"{address}.") for each in taken)
        found[name] = f"{address}.{count + 1}" if count else address
    return found


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    words = Counter(_word(row) for row in rows)
    counted = ", ".join(f"{count} {word}" for word, count in words.items())
    took = sum(row["seconds"] or 0 for row in rows if _own(row))
    return (
        f"{len(rows)} experiments: {counted}. Their processes took {took / 60:.1f} minutes in all."
    )


def _own(row: Mapping[str, Any]) -> bool:
    """Whether it ran itself."""
    return "was not run again" not in (row["compared"] or "")


def _banners(run: Run, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if settings(run).get("interrupted"):
        yield "This notebook was interrupted: what was cut off is told as far as it came."
    cut = sum(row["state"] not in ("complete", NOT_RUN) for row in rows)
    if cut and not run.complete:
        yield f"{cut} of {len(rows)} experiments of this notebook are not complete."
    left = sum(row["state"] == NOT_RUN for row in rows)
    if left:
        yield f"{left} of {len(rows)} experiments were not run; `--out` with `--resume` runs them."


def _bug(row: Mapping[str, Any]) -> Bug:
    bug, said = row["bug"], row["said"]
    return Bug(
        name=bug["name"],
        what=bug["what"],
        cost=bug["cost"],
        entry=row["entry"],
        said=None if said is None else Finding.from_json(said["finding"]),
        by="" if said is None else said["by"],
        seconds=_seconds(None if said is None else said["seconds"], " s"),
        why=row["why"] or "",
    )


def _entry(row: Mapping[str, Any]) -> Entry:
    told = [
        Told(Finding.from_json(each["finding"]), each["by"], _seconds(each["seconds"]))
        for each in row["said"]
    ]
    lead = told[0] if told else None
    return Entry(
        name=row["name"],
        set=tuple(Setting(name, _value(value)) for name, value in row["set"].items()),
        remark=row["remark"],
        notes=tuple(row["notes"]),
        level=row["verdict"] or "unjudged",
        word=_word(row),
        why=f"Not complete: {row['why']}" if row["why"] else "",
        lead=None if lead is None else lead.finding,
        by="" if lead is None else lead.by,
        seconds="" if lead is None else lead.seconds,
        unsaid="" if lead else ("" if row["why"] else "Nothing was found."),
        others=tuple(told[1:]),
        suites=_suites(row["reached"]),
        course=_course(row["course"]),
        compared=row["compared"] or "",
        folder=f"parts/{row['name']}" if _own(row) else "",
    )


def _word(row: Mapping[str, Any]) -> str:
    return str(row["verdict"] or row["state"])


def _value(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else number(value)


def _seconds(value: float | None, unit: str = "") -> str:
    if value is None:
        return "–"  # noqa: RUF001  # a dash, as typeset
    return (f"{value:.1f}" if value < 9.95 else f"{value:.0f}") + unit


def _suites(rows: Sequence[Mapping[str, Any]]) -> Table:
    heads = list(dict.fromkeys(name for row in rows for name in row["heads"]))
    return Table(
        ("suite", "ended", "steps", "loss", *heads),
        tuple(
            (
                f"{row['size']} {row['unit']}, seed {row['seed']}",
                ENDED.get(row["ended"], str(row["ended"])),
                str(row["steps"]),
                number(
                    row["loss"] if row["loss"] is not None else float(row.get("nonfinite", "nan"))
                ),
                *(_share(row["heads"].get(name)) for name in heads),
            )
            for row in rows
        ),
    )


def _share(pair: Sequence[float] | None) -> str:
    if pair is None:
        return "–"  # noqa: RUF001  # a dash, as typeset
    hits, count = map(float, pair)  # one that is not finite stands there by its name
    return f"{hits / count:.2f} ({hits:g} of {count:g})" if count else f"{hits:g} of {count:g}"


def _course(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    how = f"{row['what']}, {row['steps']} of {row['asked']} steps"
    if row["ended"] == "refused":
        how += f"; it ended at a step that was refused: {row['said']}"
    heads = [
        f"`{name}` {_share(head['first'])} in the first quarter and {_share(head['last'])} in the "
        f"last; from one look to the next it swings by {head['swing']:.2f}, where counting alone "
        f"gives {head['chance']:.2f}"
        for name, head in row["heads"].items()
    ]
    return ". ".join([how, *heads]) + "."


def _environment(run: Run) -> Iterator[Setting]:
    for fact in flat(mapping(run.facts.get("versions"))):
        yield Setting(fact.name, fact.value)
    yield Setting("seed", number(run.facts.get("seed")))
