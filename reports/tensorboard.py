"""The readings of a run for TensorBoard: scalars by site, and histograms over the sites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from probes.errors import RequestError
from probes.run import Matrix, Run

NOT_FINITE = "not finite"


def write_events(run: Run, folder: Path | str) -> int:
    """Event files of every reading of the run are in the folder; returns how many scalars.

    A scalar is called `kind/stat/site`, such as `param_grad/norm/head.weight`. A histogram of a
    kind's sites holds what is finite, and the scalar `kind/stat/not finite` counts the others,
    because TensorBoard refuses a histogram with a NaN. Each part of the run is a run of its own,
    in a folder of its name. Raises RequestError without TensorBoard.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RequestError(
            "`tensorboard` is not installed, but events were to be written: "
            "`pip install whynan[tensorboard]`."
        ) from error
    count = sum(write_events(part, Path(folder) / name) for name, part in run.parts)
    with SummaryWriter(str(folder)) as writer:
        for kind, stat in run.streams:
            count += _write_stream(writer, f"{kind}/{stat}", run.matrix(kind, stat))
    return count


def _write_stream(writer: Any, name: str, matrix: Matrix) -> int:
    """The events of every step of a kind's statistic are written; returns how many scalars."""
    count = 0
    for row, step in enumerate(matrix.steps.tolist()):
        places = np.flatnonzero(matrix.seen[row])
        values = matrix.values[row, places]
        for place, value in zip(places.tolist(), values.tolist(), strict=True):
            writer.add_scalar(f"{name}/{matrix.sites[place]}", value, step)
        finite = values[np.isfinite(values)]
        if len(finite):
            writer.add_histogram(name, finite, step)
        writer.add_scalar(f"{name}/{NOT_FINITE}", len(values) - len(finite), step)
        count += len(values) + 1
    return count
