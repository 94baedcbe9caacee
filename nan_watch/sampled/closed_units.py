"""Modules most of whose units let no gradient through at the end of a course."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nan_watch.course import Course, Table, courses
from probes.run import Run


@dataclass(frozen=True, slots=True)
class ClosedUnits:
    """Of an activation's units a share is closed, whatever it is given.

    limit: the share that it is beyond. step: of the first look that was beyond.
    """

    site: str
    share: float
    units: int
    limit: float
    step: int


def lacks_units(run: Run, stat: str) -> str | None:
    """Why no course of the run holds these shares; None where one does."""
    if not any(courses(run)):
        return "the run holds no gradient norms"
    if any(("unit", stat) in each.streams for each in (run, *(part for _, part in run.parts))):
        return None
    return "no activation module of this kind was seen; functions are not"


def closed_units(course: Course, shares: Table, deviations: float) -> Iterator[ClosedUnits]:
    """The sites where more units are closed than a coin that is thrown for each would close.

    Inputs that are all alike close half of the units of fresh weights, and that is health: the
    limit is a half, and so many standard deviations of `units` throws.
    """
    for column, site in enumerate(shares.sites):
        seen = np.flatnonzero(~np.isnan(shares.values[:, column]))
        counts = course.units.of(site)
        if not len(seen) or np.isnan(counts).all():
            continue
        units = int(np.nanmax(counts))
        limit = 0.5 + deviations * 0.5 / np.sqrt(units)
        beyond = shares.values[seen, column] > limit
        if beyond[-1]:
            first = int(seen[len(beyond) - _run_at_end(beyond)])
            share = float(shares.values[seen[-1], column])
            yield ClosedUnits(site, share, units, float(limit), int(shares.steps[first]))


def _run_at_end(beyond: npt.NDArray[np.bool_]) -> int:
    """How many looks on end, up to the last, were beyond."""
    within = np.flatnonzero(~beyond)
    return len(beyond) - (int(within[-1]) + 1 if len(within) else 0)
