"""A stretch of training as the gradient-health rules read it from a run folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from probes.finding import Finding
from probes.run import Run

Doubles = npt.NDArray[np.float64]

UNTOUCHED = 0.999  # of a norm: what is left of it where nothing was taken away

BIAS = re.compile(r"bias(?!.*weight)")

_KNOWN: WeakKeyDictionary[Run, tuple[object, list[Course]]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Table:
    """One kind and statistic, fit to be compared.

    steps: (step,). values: (step, site), absent ones NaN, and those that are not finite infinite,
    so that no limit calls them small. Use functions that pass over NaN.
    """

    steps: npt.NDArray[np.int64]
    sites: tuple[str, ...]
    values: Doubles

    def of(self, site: str) -> Doubles:
        """(step,) the numbers of one site, all absent where there is no such site."""
        if site not in self.sites:
            return np.full(len(self.steps), np.nan)
        return self.values[:, self.sites.index(site)]


@dataclass(frozen=True, slots=True)
class Course:
    """What was read of one run, or of one part of it.

    name: the part's; empty for the run itself. grads: gradient norms as the optimizer saw them.
    before: the same before clipping, where that is known. total: (step,) the norm of all of them,
    before clipping where that is known. dead, saturated: shares of the units of activations that
    let no gradient through, of `units`. edges: bits of their range that places in the code have
    left. frozen, unheld, changed: names of parameters that take no gradient, that do but that the
    optimizer does not hold, and of frozen ones whose numbers were others at the end; None where
    the run does not say. replaced, unregistered: names of what gets gradients and is not held,
    since it came later, or is not among the parameters. zeroed: names of those that the loss
    takes times the number 0.
    """

    name: str
    grads: Table
    before: Table
    updates: Table
    outputs: Table
    output_grads: Table
    dead: Table
    saturated: Table
    units: Table
    edges: Table
    factor: Doubles
    losses: Doubles
    total: Doubles
    frozen: frozenset[str] | None = None
    unheld: frozenset[str] | None = None
    changed: frozenset[str] | None = None
    replaced: tuple[str, ...] = ()
    unregistered: tuple[str, ...] = ()
    zeroed: frozenset[str] = frozenset()

    @property
    def modules(self) -> Mapping[str, list[int]]:
        """Module name to the columns of its own parameters in `grads`, in the model's order."""
        found: dict[str, list[int]] = {}
        for column, site in enumerate(self.grads.sites):
            found.setdefault(module_of(site), []).append(column)
        return found

    @property
    def reached(self) -> list[bool]:
        """(site,) whether a parameter ever had a gradient, be it zero."""
        there: npt.NDArray[np.bool_] = ~np.isnan(self.grads.values)
        return [bool(column.any()) for column in there.T]

    @property
    def learning(self) -> npt.NDArray[np.bool_]:
        """(step,) whether there was still something to learn: steps before the total norm fell.

        Once all is memorised every gradient is near zero, and that is health.
        """
        start = level(self.total[:10])
        return (self.total > 1e-3 * start) & np.isfinite(self.total)

    @property
    def moved(self) -> float:
        """The largest update of a weight, over its norm, that was seen; NaN where none was."""
        columns = [i for i, site in enumerate(self.updates.sites) if not is_bias(site)]
        return float(largest(self.updates.values[:, columns].reshape(1, -1), axis=1)[0])

    @property
    def fall(self) -> float | None:
        """By how much of its start the loss fell, negative where it rose; None where unknown.

        The start is the first loss, or the median of three where that is lower. A loss that ended
        not finite fell by minus infinity.
        """
        known = self.losses[~np.isnan(self.losses)]
        if len(known) < 2:
            return None
        start, end = min(float(known[0]), level(known[:3])), level(known[-5:])
        if not np.isfinite(known[-1]) or not np.isfinite(start):
            return -np.inf
        return float((start - end) / max(abs(start), 1e-12))

    def said_of(self, finding: Finding) -> Finding:
        """The finding, which names the part that it was found in."""
        if not self.name:
            return finding
        return replace(finding, message=f"{finding.message[:-1]} (in `{self.name}`).")


def level(values: Doubles) -> float:
    """The median of what is there and finite; NaN where nothing is."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def largest(values: Doubles, axis: int) -> Doubles:
    """The maximum of what is there; NaN where nothing is."""
    filled = np.where(np.isnan(values), -1.0, values).max(axis=axis, initial=-1.0)
    return np.where(filled < 0, np.nan, filled)


def module_of(parameter: str) -> str:
    """The dotted name of the module that a parameter stands in; `model` for the root."""
    return parameter.rpartition(".")[0] or "model"


def is_bias(parameter: str) -> bool:
    """Whether a parameter is a bias by its name, `in_proj_bias` and `bias_hh_l0` included."""
    return BIAS.search(parameter.rpartition(".")[2]) is not None


def courses(run: Run) -> Iterator[Course]:
    """The run itself and each of its parts, as far as they hold gradients.

    Each rule asks for them: they are read again only where something was written since.
    """
    held = [
        (name, each)
        for name, each in (("", run), *run.parts)
        if ("param_grad", "norm") in each.streams
    ]
    now = [(name, _parameters(each), *_written(each)) for name, each in held]
    known = _KNOWN.get(run)
    if known is None or known[0] != now:
        known = _KNOWN[run] = (now, [read_course(name, each) for name, each in held])
    return iter(known[1])


def _written(run: Run) -> Iterator[int]:
    """How much was written, and when."""
    for name in ("readings/steps.i64", "sites.jsonl"):
        path = run.folder / name
        if path.is_file():
            yield path.stat().st_size
            yield path.stat().st_mtime_ns


def lacks_gradients(run: Run, steps: int) -> str | None:
    """Why no course of the run is long enough to be judged; None where one is."""
    lengths = [len(course.grads.steps) for course in courses(run)]
    if not lengths:
        return "the run holds no gradient norms"
    if max(lengths) < steps:
        return f"{max(lengths)} steps were watched, but {steps} are needed"
    return None


def long_enough(run: Run, steps: int) -> Iterator[Course]:
    """The courses of at least so many steps."""
    return (course for course in courses(run) if len(course.grads.steps) >= steps)


def once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings without those of a later course that say the same of the same site."""
    told = set()
    for finding in findings:
        if finding.site not in told:
            told.add(finding.site)
            yield finding


def read_course(name: str, run: Run) -> Course:
    """The course of one run folder."""
    grads = _table(run, "param_grad", "norm")
    before = _table(run, "param_grad", "norm_before_clip")
    clip = _table(run, "clip", "total_norm")
    known = grads if before.sites == () else _patched(before, grads)
    total = np.sqrt(np.nansum(known.values**2, axis=1))
    given = _at(grads.steps, clip, "<optimizer>")
    said = _parameters(run)
    return Course(
        name,
        grads,
        before,
        _table(run, "update", "ratio"),
        _table(run, "output", "abs_max"),
        _table(run, "output_grad", "abs_max"),
        _table(run, "unit", "dead_share"),
        _table(run, "unit", "saturated_share"),
        _table(run, "unit", "count"),
        _table(run, "edge", "bits_left"),
        _factor(run, grads, before),
        _at(grads.steps, _table(run, "loss", "value"), "<loss>"),
        np.where(np.isnan(given), total, given),
        _names(said, "frozen"),
        _names(said, "unheld"),
        _names(said, "changed"),
        tuple(said.get("replaced", ())),
        tuple(said.get("unregistered", ())),
        frozenset(said["zeroed"]),
    )


def _parameters(run: Run) -> Mapping[str, list[str]]:
    settings = run.facts["settings"]
    return {**settings.get("parameters", {}), "zeroed": settings.get("times_zero", [])}


def _names(said: Mapping[str, list[str]], key: str) -> frozenset[str] | None:
    return frozenset(said[key]) if key in said else None


def _table(run: Run, kind: str, stat: str) -> Table:
    matrix = run.matrix(kind, stat)
    values = matrix.values.astype(np.float64)
    values[~np.isfinite(values)] = np.inf
    values[~matrix.seen] = np.nan
    there = matrix.seen.any(axis=1)
    sites = matrix.sites if there.any() else ()
    return Table(matrix.steps[there], sites, values[there][:, : len(sites)])


def _at(steps: npt.NDArray[np.int64], table: Table, site: str) -> Doubles:
    """(step,) the site's numbers at these steps, NaN where there is none."""
    by_step = dict(zip(table.steps.tolist(), table.of(site).tolist(), strict=True))
    return np.array([by_step.get(step, np.nan) for step in steps.tolist()])


def _factor(run: Run, grads: Table, before: Table) -> Doubles:
    """(step,) what the gradients were multiplied by, as `clip` says, or as their norms tell.

    NaN where neither does, where nothing was taken from them, and where nothing was left of them.
    """
    told = _at(grads.steps, _table(run, "clip", "factor"), "<optimizer>")
    if before.sites == () or np.isfinite(told).any():
        return told
    given, left = (_totals(each, grads, before) for each in (before, grads))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = left / given
    return np.where((share > 0) & (share < UNTOUCHED), share, np.nan)


def _totals(table: Table, grads: Table, before: Table) -> Doubles:
    """(step,) the norm over what both tables hold, at the steps of `grads`."""
    both = [site for site in grads.sites if site in before.sites]
    columns = [_at(grads.steps, table, site) ** 2 for site in both]
    return np.asarray(np.sqrt(np.nansum(columns, axis=0)))


def _patched(before: Table, grads: Table) -> Table:
    """The norms before clipping at the steps of `grads`; those after it where none is known."""
    values = grads.values.copy()
    rows = {step: row for row, step in enumerate(before.steps.tolist())}
    for place, step in enumerate(grads.steps.tolist()):
        if step in rows:
            row = before.values[rows[step]]
            values[place] = np.where(np.isnan(row), values[place], row)
    return Table(grads.steps, grads.sites, values)
