"""How far each parameter was moved by a step, over its own size."""

from __future__ import annotations

import numpy as np

from probes.run import Matrix
from reports.figures import heatmap
from reports.figures.figure import Figure


def draw(matrix: Matrix, part: str, of: str = "") -> Figure:
    """The heatmap of a matrix that holds at least one reading; each step looks at a few only.

    of: how a reader calls the part, after a colon.
    """
    words = heatmap.Words(
        id=f"update-{part}",
        title=f"Update ratios{of}",
        what="update",
        size="ratio",
        colour="the norm of the update over that of the weight; about 1e-3 is usual",
        odd="an update",
    )
    return heatmap.draw(matrix, words, _gap(matrix))


def _gap(matrix: Matrix) -> int:
    """Steps between two looks at a parameter, by the median."""
    gaps = [np.diff(np.flatnonzero(column)) for column in matrix.seen.T]
    every = np.concatenate([gap for gap in gaps if len(gap)] or [np.ones(1)])
    return max(1, int(np.median(every)))
