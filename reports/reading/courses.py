"""Losses and accuracies of a stretch, with the floors and ceilings that its record names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from probes.run import Matrix, Run
from reports.figures.curves import Bound, Course, Curve
from reports.reading.stretches import settings, title

ENDED = {
    "memorised": "It ended early: memorised.",
    "steps": "It ended after its last step.",
    "refused": "It ended at a step that the watch refused.",
    "died": "It ended by an exception.",
}


def read_course(name: str, run: Run) -> Course | None:
    """The stretch's curves; None where nothing of the kind was recorded."""
    losses = run.matrix("loss", "value")
    order = sorted(losses.sites, key=lambda site: site != "<loss>")
    lines = [curve(losses, site, "loss" if site == "<loss>" else site) for site in order]
    evaluated = run.matrix("loss", "evaluated")
    lines += [curve(evaluated, site, f"{site}, evaluated") for site in evaluated.sites]
    drawn = tuple(line for line in lines if line.steps)
    accuracies = tuple(_accuracies(run))
    if not drawn and not accuracies:
        return None
    return Course(name, title(name, run), drawn, accuracies, _ended(run), tuple(_bounds(run)))


def curve(matrix: Matrix, site: str, name: str) -> Curve:
    """One column of the matrix as a line, where anything was measured."""
    column = matrix.sites.index(site)
    rows = matrix.seen[:, column]
    values = matrix.values[rows, column].astype(float)
    return Curve(name, tuple(matrix.steps[rows].tolist()), tuple(values.tolist()))


def _accuracies(run: Run) -> Iterator[Curve]:
    hits, counts = run.matrix("metric", "hits"), run.matrix("metric", "count")
    for site in counts.sites:
        right, asked = curve(hits, site, site), curve(counts, site, site)
        shared = sorted(set(right.steps) & set(asked.steps))
        hit = dict(zip(right.steps, right.values, strict=True))
        count = dict(zip(asked.steps, asked.values, strict=True))
        if shared and all(count[step] > 0 for step in shared):
            yield Curve(
                site,
                tuple(shared),
                tuple(hit[step] / count[step] for step in shared),
                tuple(hit[step] for step in shared),
                tuple(count[step] for step in shared),
            )


def _bounds(run: Run) -> Iterator[Bound]:
    """Floors, what needs no learning, and ceilings, what no learning gets over."""
    for kind in ("floor", "ceiling"):
        rows = settings(run).get(f"{kind}s")
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, Mapping) and "name" in row:
                accuracy, loss = _number(row.get("accuracy")), _number(row.get("loss"))
                head = row.get("head")
                if accuracy is not None or loss is not None:
                    name, of = str(row["name"]), None if head is None else str(head)
                    yield Bound(kind, name, of, accuracy, loss)


def _number(value: Any) -> float | None:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None


def _ended(run: Run) -> str | None:
    ended = settings(run).get("ended")
    return ENDED.get(str(ended), f"It ended: {ended}.") if ended else None
