"""Arrays that checks kept of what they measured, whatever their axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from reports.figures.measured import Measured
from reports.reading import attention, attributions
from reports.reading.stretches import UNREADABLE, Stretch

OTHERS = (attention.PREFIX, *attributions.PREFIX)  # which have figures of their own


def read_kept(found: Sequence[Stretch], missing: list[str]) -> Iterator[Measured]:
    """Every array of numbers or truths that has no figure of its own."""
    for part, run in found:
        for name in run.arrays:
            if name.startswith(OTHERS):
                continue
            try:
                array = run.array(name)
                values = np.asarray(array.values)
                if values.dtype.kind not in "biuf" or values.size == 0 or values.ndim == 0:
                    raise ValueError(f"it is {values.dtype} of shape {values.shape}")
                yield Measured(
                    name=f"{part}-{name}" if part != "run" else name,
                    title=name,
                    values=values,
                    axes=array.axes,
                    labels={axis: tuple(map(str, names)) for axis, names in array.labels.items()},
                    about={key: str(value) for key, value in array.about.items()},
                )
            except UNREADABLE as error:
                why = f"({type(error).__name__}: {error})"
                missing.append(f"array {name} of {part} cannot be read {why}")
