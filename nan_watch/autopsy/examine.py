"""Goes through checkpoints one tensor at a time, each beside the checkpoint before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from nan_watch.autopsy.edge_of_range import EdgeOfRange
from nan_watch.autopsy.facts import Examined, TensorFacts, facts
from nan_watch.autopsy.files import Loads, tensors_of
from nan_watch.autopsy.places import Place, places
from nan_watch.autopsy.poisoned_checkpoint import PoisonedCheckpoint, Series
from nan_watch.readings import as_row
from probes.chunks import Floats
from probes.finding import Cause, Judgement, judge
from probes.record import Recorder, new_folder

RULES: tuple[Cause[Series], ...] = (PoisonedCheckpoint(), EdgeOfRange())

NONE = -1.0  # a row holds it where there is no number

Say = Callable[[str, int, int], None]
"""Is told before every tensor: the checkpoint's name, tensors done, tensors there are."""


@dataclass(frozen=True, slots=True)
class Autopsy:
    """What was found: the run folder, the judgement, and every checkpoint's facts."""

    folder: Path
    judgement: Judgement
    series: tuple[Examined, ...]


def autopsy(
    paths: Sequence[Path], out: Path | None = None, *, trust: bool = False, say: Say | None = None
) -> Autopsy:
    """The checkpoints at the paths, in their order, were examined; a run folder tells of them.

    trust: pickles that hold more than tensors are run. Raises RequestError where a path holds no
    checkpoint or cannot be read, and then no folder is left.
    """
    found = places(paths)
    folder = new_folder(out)
    try:
        series = tuple(examine(found, trust, say))
    except BaseException:
        folder.rmdir()
        raise
    judgement = judge(RULES, series)
    _record(folder, paths, series, judgement)
    return Autopsy(folder, judgement, series)


def examine(
    series: Sequence[Place], trust: bool = False, say: Say | None = None
) -> Iterator[Examined]:
    """The facts of each checkpoint, with its changes since the one before in the series.

    At most two checkpoints are open and two tensors of safetensors in memory at a time.
    """
    with ExitStack() as last:
        before: Loads = {}
        for place in series:
            with ExitStack() as this:
                now = this.enter_context(tensors_of(place, trust))
                each = tuple(_facts(place.name, now, before, say))
                yield Examined(place.name, each, tuple(before.keys() - now.keys()))
                last.close()
                last.push(this.pop_all())
                before = now


def _facts(name: str, now: Loads, before: Loads, say: Say | None) -> Iterator[TensorFacts]:
    for done, (tensor, load) in enumerate(now.items()):
        if say is not None:
            say(name, done, len(now))
        old = before[tensor]() if tensor in before else None
        yield facts(tensor, load(), old)
    if say is not None:
        say(name, len(now), len(now))


def _record(
    folder: Path, paths: Sequence[Path], series: Sequence[Examined], judgement: Judgement
) -> None:
    """Readings of kind `weight`, one row a checkpoint: abs_max, not_finite and change."""
    about = [
        {
            "name": each.name,
            "tensors": len(each.tensors),
            "bytes": each.size,
            "dtypes": each.dtypes,
            "poisoned": [sick.name for sick in each.poisoned],
            "gone": sorted(each.gone),
        }
        for each in series
    ]
    recorder = Recorder(
        folder,
        settings={"part": "autopsy", "paths": [str(path) for path in paths], "checkpoints": about},
        limits={rule.code: asdict(cast(Any, rule)) for rule in RULES},
    )
    for step, each in enumerate(series):
        recorder.write(step, _rows(recorder, each))
    recorder.close(judgement)


def _rows(recorder: Recorder, each: Examined) -> dict[tuple[str, str], Floats]:
    columns = [recorder.column("weight", tensor.name) for tensor in each.tensors]
    wide = np.full((3, len(recorder.row("weight"))), NONE)
    for column, tensor in zip(columns, each.tensors, strict=True):
        change = NONE if tensor.change is None else tensor.change
        wide[:, column] = tensor.abs_max, tensor.bad, change
    stats = ("abs_max", "not_finite", "change")
    return {("weight", stat): as_row(row) for stat, row in zip(stats, wide, strict=True)}
