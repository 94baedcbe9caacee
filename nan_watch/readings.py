"""Puts the numbers of a step into the run record, and keeps those of the newest steps at hand."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nan_watch.flags import Doubles, Sightings
from nan_watch.grad_norms import Norms
from nan_watch.sampled.sampling import SHARES, share_measured
from probes.bus import Kind, Site
from probes.chunks import NOT_SEEN, Floats, seen
from probes.record import Recorder

LARGEST = float(np.finfo(np.float32).max)
KEPT = 9  # steps told of: the one at work, and eight healthy ones before
HELD = KEPT * SHARES  # steps kept in memory, in KEPT of which a site was measured

Indices = npt.NDArray[np.int64]
Rows = dict[tuple[str, str], Floats]


def as_row(values: Doubles) -> Floats:
    """The numbers as float32, finite ones kept finite; minus one becomes not seen.

    No number is negative but for that one.
    """
    if len(values) and values.max() <= LARGEST:  # false where there is a NaN
        out = values.astype(np.float32)
    else:
        with np.errstate(over="ignore"):
            out = values.astype(np.float32)
        out[np.isinf(out) & (values < np.inf)] = LARGEST
    out[values == -1.0] = NOT_SEEN
    return out


class Readings:
    """Writes one step after the other; `of` tells what the newest ones held."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._kinds = np.empty(0, bool)  # by the number of a site: true for an output
        self._places = np.empty(0, np.int64)  # by the number of a site: its column, -1 if none yet
        self._names: dict[str, dict[str, int]] = {}
        self._order: Indices = np.empty(0, np.int64)
        self._parts: list[tuple[Kind, Indices, Indices, bool]] = []
        self._named: Sequence[str] = ()
        self._named_columns: list[int] = []
        self._newest: deque[tuple[int, Rows]] = deque(maxlen=HELD)
        self._near = 0  # how many of them are the KEPT newest, less one that was forgotten
        self._written = 0  # steps

    def sightings(self, sightings: Sightings, sites: Sequence[Site], scale: float = 1.0) -> Rows:
        """The rows of outputs and output gradients; a site seen often has its largest number.

        scale: of the loss, by which its gradients are divided.
        """
        if sightings.numbers is not self._order:
            self._plan(sightings.numbers, sites)
            self._order = sightings.numbers
        largest = sightings.abs_max
        rows = {}
        for kind, chosen, places, once in self._parts:
            wide = np.full(len(self._names[kind]), -1.0)
            if once:
                wide[places] = largest[chosen]
            else:
                with np.errstate(invalid="ignore"):  # a NaN stays one, and is no news
                    np.maximum.at(wide, places, largest[chosen])
            if scale != 1.0 and kind is Kind.OUTPUT_GRAD:
                wide = np.where(wide == -1.0, wide, wide / scale)
            rows[str(kind), "abs_max"] = as_row(wide)
        return rows

    def _plan(self, numbers: npt.NDArray[np.int64], sites: Sequence[Site]) -> None:
        """Where the sightings go is known, for all steps in which they come in this order.

        `_parts`: the kind, which sightings are its own, their columns, whether all differ.
        """
        self._learn(numbers, sites)
        self._parts = []
        is_output = self._kinds[numbers]
        for kind, own in ((Kind.OUTPUT, is_output), (Kind.OUTPUT_GRAD, ~is_output)):
            if own.any():
                chosen = np.flatnonzero(own)
                places = self._places[numbers[chosen]]
                once = len(np.unique(places)) == len(places)
                self._parts.append((kind, chosen, places, once))

    def _learn(self, numbers: npt.NDArray[np.int64], sites: Sequence[Site]) -> None:
        """Every number has a place in the rows of its kind; a site never seen has none."""
        fresh = len(sites) - len(self._places)
        if fresh:
            kinds = [site.kind is Kind.OUTPUT for site in sites[len(self._places) :]]
            self._kinds = np.append(self._kinds, kinds)
            self._places = np.append(self._places, np.full(fresh, -1))
        if self._places[numbers].min(initial=0) < 0:
            for number in numbers[self._places[numbers] < 0].tolist():
                site = sites[number]
                self._places[number] = self.column(site.kind, site.name)

    def column(self, kind: str, name: str) -> int:
        """The column of the site in its kind's rows."""
        column = self._names.setdefault(kind, {}).get(name)
        if column is None:
            column = self._names[kind][name] = self.recorder.column(kind, name)
        return column

    def norms(self, norms: Norms, names: Sequence[str]) -> Rows:
        """The rows of gradient norms, and of clipping where there was any."""
        rows = self._wide("norm", names, norms.seen)
        if norms.before is not None:
            rows |= self._wide("norm_before_clip", names, norms.before)
        if norms.total is not None and norms.factor is not None:
            rows |= self.one("clip", "total_norm", {"<optimizer>": norms.total})
            rows |= self.one("clip", "factor", {"<optimizer>": norms.factor})
        return rows

    def _wide(self, stat: str, names: Sequence[str], values: Doubles) -> Rows:
        if names is not self._named:  # the parameters' columns are looked up when they change
            self._named = names
            self._named_columns = [self.column("param_grad", name) for name in names]
        wide = np.full(len(self._names["param_grad"]), NOT_SEEN, np.float32)
        wide[self._named_columns] = as_row(values)
        return {("param_grad", stat): wide}

    def one(self, kind: str, stat: str, by_site: Mapping[str, float]) -> Rows:
        """The row of one statistic of a few sites; empty where there is none."""
        if not by_site:
            return {}
        columns = [self.column(kind, site) for site in by_site]
        wide = np.empty(len(self._names[kind]), np.float32)
        wide.fill(NOT_SEEN)
        for column, value in zip(columns, by_site.values(), strict=True):
            finite = math.isfinite(value)
            wide[column] = min(LARGEST, max(-LARGEST, value)) if finite else value
        return {(kind, stat): wide}

    def write(self, step: int, rows: Rows) -> None:
        """The step's rows are on disk, and at hand for as long as it is among the newest."""
        self.recorder.write(step, rows)
        self._newest.append((step, rows))
        self._near = min(KEPT, self._near + 1)
        self._written += 1

    def forget_newest(self) -> None:
        """The newest step, which was poisoned, is no part of the history of later ones."""
        self._newest.pop()
        self._near -= 1

    def late(self, step: int, rows: Rows) -> None:
        """Rows that became known after their step was written are on disk too."""
        if rows:
            self.recorder.write(step, rows)
            for known, newest in reversed(self._newest):
                if known == step:
                    newest.update(rows)
                    break

    def of(self, kind: str, stat: str, site: str) -> list[tuple[int, float]]:
        """Step and value, oldest first, of the newest healthy steps in which it was seen."""
        column = self._names.get(kind, {}).get(site)
        if column is None:
            return []
        found = []
        thin = stat == "abs_max" and share_measured(self._written) is not None
        for step, rows in self._newest if thin else self._nearest():
            row = rows.get((kind, stat))
            if row is not None and column < len(row) and seen(row[column : column + 1])[0]:
                found.append((step, float(row[column])))
        return found[-KEPT:]

    def _nearest(self) -> list[tuple[int, Rows]]:
        return [*self._newest][len(self._newest) - self._near :]

    def most(self, kind: str, stat: str) -> list[tuple[int, float]]:
        """Step and largest value over all sites, oldest first, of the newest healthy steps."""
        found = []
        for step, rows in self._nearest():
            row = rows.get((kind, stat))
            there = row[seen(row)] if row is not None else row
            if there is not None and len(there):
                found.append((step, float(there.max())))
        return found
