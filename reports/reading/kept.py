"""Arrays that checks kept of what they measured: spans side by side, others whatever their axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from probes.run import NamedArray, Run
from reports.figures.alignment import Alignment
from reports.figures.measured import Measured
from reports.reading import attention, attributions
from reports.reading.stretches import UNREADABLE, Stretch

OTHERS = (attention.PREFIX, *attributions.PREFIX)  # which have figures of their own
TABLE = "-effects"  # of every change that a check tried, to be read as a table
DECLARED, READ = "index-alignment-declared", "index-alignment-read"


def read_kept(found: Sequence[Stretch], missing: list[str]) -> Iterator[Measured | Alignment]:
    """Every array of numbers or truths that has no figure of its own."""
    for part, run in found:
        names = [
            name for name in run.arrays if not name.startswith(OTHERS) and not name.endswith(TABLE)
        ]
        for name in names:
            other = name.replace(DECLARED, READ)
            paired = name.startswith(DECLARED) and other in names
            if name.startswith(READ) and name.replace(READ, DECLARED) in names:
                continue  # drawn with the declared ones
            try:
                called = f"{part}-{name}" if part != "run" else name
                spans = _alignment(called, run.array(name), run.array(other)) if paired else None
                kept = spans or _measured(called, name, run)
                if kept is not None:
                    yield kept
            except UNREADABLE as error:
                why = f"({type(error).__name__}: {error})"
                missing.append(f"array {name} of {part} cannot be read {why}")


def _alignment(called: str, declared: NamedArray, read: NamedArray) -> Alignment | None:
    """Both as one; None where they are no spans of one shape."""
    shape = declared.values.shape
    if shape != read.values.shape or len(shape) < 2 or shape[-1] != 2 or 0 in shape:
        return None
    if declared.values.dtype.kind not in "iu" or read.values.dtype.kind not in "iu":
        return None
    return Alignment(
        name=called,
        axes=declared.axes[:-1],
        of=str(declared.about.get("of", "entries")),
        declared=declared.values.astype(np.int64),
        read=read.values.astype(np.int64),
    )


def _measured(called: str, name: str, run: Run) -> Measured | None:
    """The array; None of one without an entry, for then nothing was measured."""
    array = run.array(name)
    values = np.asarray(array.values)
    if values.size == 0:
        return None
    if values.dtype.kind not in "biuf" or values.ndim == 0:
        raise ValueError(f"it is {values.dtype} of shape {values.shape}, and no array of numbers")
    return Measured(
        name=called,
        title=name,
        values=values,
        axes=array.axes,
        labels={axis: tuple(map(str, names)) for axis, names in array.labels.items()},
        about={key: _words(value) for key, value in array.about.items() if key != "what"},
        what=str(array.about.get("what", "")),
    )


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
