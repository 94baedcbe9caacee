"""Numbers of every parameter over the steps, and what clipping did to them."""

from __future__ import annotations

from dataclasses import dataclass

from probes.run import Matrix, Run
from reports.figures.clipping import Ledger
from reports.reading.courses import curve
from reports.reading.stretches import of


@dataclass(frozen=True, slots=True)
class Norms:
    """One statistic of the parameters of one part, with at least one reading.

    of: how a reader calls the part, after a colon.
    """

    part: str
    stat: str
    matrix: Matrix
    of: str


def read_gradients(name: str, run: Run) -> Norms | None:
    """Gradient norms as the optimizer saw them; before clipping where those alone are known."""
    for stat in ("norm", "norm_before_clip"):
        matrix = run.matrix("param_grad", stat)
        if matrix.seen.any():
            return Norms(name, stat, matrix, of(name, run))
    return None


def read_updates(name: str, run: Run) -> Norms | None:
    """Sizes of updates over those of the weights, of the few parameters that each step looks at."""
    matrix = run.matrix("update", "ratio")
    return Norms(name, "ratio", matrix, of(name, run)) if matrix.seen.any() else None


def read_clipping(name: str, run: Run) -> Ledger | None:
    """The total norm of every step and the factor that clipping left of it."""
    total, factor = run.matrix("clip", "total_norm"), run.matrix("clip", "factor")
    if not total.seen.any() or not factor.seen.any():
        return None
    site = total.sites[0]
    norms, factors = curve(total, site, "total norm"), curve(factor, site, "factor")
    return Ledger(name, norms, factors, of(name, run))
