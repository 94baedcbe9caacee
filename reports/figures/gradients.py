"""Every parameter's gradient norm over the steps."""

from __future__ import annotations

from probes.run import Matrix
from reports.figures import heatmap
from reports.figures.figure import Figure


def draw(matrix: Matrix, part: str, stat: str, of: str = "") -> Figure:
    """The heatmap of a matrix that holds at least one reading.

    part: what the readings are of; stat: `norm` as the optimizer saw it, or `norm_before_clip`.
    of: how a reader calls the part, after a colon.
    """
    when = "as the optimizer saw it" if stat == "norm" else "before clipping"
    words = heatmap.Words(
        id=f"grad-{part}",
        title=f"Gradient norms{of}",
        what="gradient",
        size="norm",
        colour=f"the gradient's norm {when}",
        odd="a gradient",
    )
    return heatmap.draw(matrix, words)
