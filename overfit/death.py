"""How a suite that ended by an exception, or by a kill, is written down."""

from __future__ import annotations

import json
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from overfit.plan import Plan
from probes import strict_json
from probes.record import Recorder

_HOME = Path(__file__).resolve().parent.parent
_FOREIGN = (
    Path(sysconfig.get_paths()["stdlib"]).resolve(),
    Path(torch.__file__).resolve().parent,
    *(_HOME / name for name in ("probes", "nan_watch", "overfit", "reports")),
)


def note_death(folder: Path, plan: Plan, error: Exception) -> None:
    """The record in `folder` says what exception ended the suite, and at which line of the user."""
    said = f"{type(error).__name__}: {error}"
    write_death(folder, plan, said, source_of(error))


def write_death(folder: Path, plan: Plan, said: str, source: str | None = None) -> None:
    """The record in `folder`, made where there was none, says that the suite died, and how."""
    if not (folder / "run.json").is_file():
        asked = {"part": "suite", "size": plan.size, "seed": plan.seed, "steps": plan.steps}
        Recorder(folder, seed=plan.seed, settings=asked).close()
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    facts["settings"] |= {"ended": "died", "said": said, "source": source}
    strict_json.write(folder / "run.json", facts)


def source_of(error: BaseException) -> str | None:
    """`file.py:line` of the innermost frame of the user's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((_place(frame) for frame in reversed(frames) if _is_own(frame.filename)), None)


def _is_own(name: str) -> bool:
    path = Path(name).resolve()
    known: Sequence[Path] = _FOREIGN
    return (
        path.is_file()
        and "site-packages" not in path.parts
        and not any(folder in path.parents for folder in known)
    )


def _place(frame: traceback.FrameSummary) -> str:
    path = Path(frame.filename).resolve()
    here = Path.cwd().resolve()
    shown = path.relative_to(here) if here in path.parents else path
    return f"{shown}:{frame.lineno}"
