"""What a step starts from, kept every so many steps, so that a re-run can start there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nan_watch.capsule.start import Start
from nan_watch.capsule.start_folder import read_start, whole_folder, write_start
from probes import strict_json
from probes.errors import RequestError
from probes.replay import Snapshot

NEWEST = 3  # snapshots that stay
JSON = "start.json"


class Kept:
    """Writes `kept/step-000100/` of a run folder before every step whose turn it is."""

    def __init__(self, run: Path, model: nn.Module, optimizer: Optimizer, every: int) -> None:
        self.folder = run / "kept"
        self.model = model
        self.optimizer = optimizer
        self.every = every

    def before(self, step: int) -> None:
        """Where it is the step's turn, what it starts from is on disk; the newest three stay."""
        if step % self.every:
            return
        start = Start.of(self.model, self.optimizer, Snapshot.take(self.model), step)
        whole_folder(self.folder / f"step-{step:06d}", lambda fresh: _write(start, fresh))
        for old in kept_folders(self.folder.parent)[:-NEWEST]:
            shutil.rmtree(old)


def _write(start: Start, folder: Path) -> None:
    strict_json.write(folder / JSON, {"schema": 1, "start": write_start(start, folder)})


def kept_folders(run: Path) -> list[Path]:
    """The snapshots of a run, the oldest first; half-written ones are left out."""
    return sorted(path.parent for path in run.glob(f"kept/step-*[0-9]/{JSON}"))


def oldest_since(run: Path, step: int) -> Start | None:
    """The oldest snapshot of a run that was taken at that step or later; None where none was."""
    numbers = {int(folder.name.rpartition("-")[2]): folder for folder in kept_folders(run)}
    later = [number for number in numbers if number >= step]
    return load_start(numbers[min(later)]) if later else None


def load_start(folder: Path) -> Start:
    """The snapshot in the folder. Raises RequestError where there is none."""
    try:
        facts: dict[str, Any] = json.loads((folder / JSON).read_text(encoding="utf-8"))
        return read_start(facts["start"], folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"`{folder}` holds no snapshot of `--keep-every` ({type(error).__name__}: {error}): "
            f"name a folder with a `{JSON}`, such as RUN/kept/step-000100."
        ) from error
