"""How a suite that ended by an exception, or by a kill, is written down."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from overfit.plan import Plan
from probes import strict_json
from probes.raised import source_of
from probes.record import Recorder


def note_death(folder: Path, plan: Plan, error: Exception) -> None:
    """The record in `folder` says what exception ended the suite, and at which line of the user."""
    said = f"{type(error).__name__}: {error}"
    write_death(folder, plan, said, source_of(error))


def write_death(folder: Path, plan: Plan, said: str, source: str | None = None) -> None:
    """The record in `folder`, made where there was none, says that the suite died, and how."""
    if not (folder / "run.json").is_file():
        asked = {"part": plan.kind, **asdict(plan)}
        Recorder(folder, seed=plan.seed, settings=asked).close()
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    facts["settings"] |= {"ended": "died", "said": said, "source": source}
    strict_json.write(folder / "run.json", facts)
