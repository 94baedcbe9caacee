"""A run that is gone on with: what is complete in its folder is kept, the rest is run again."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probes import strict_json
from probes.errors import RequestError
from probes.record import new_folder
from probes.run import Run

OWN = (
    *("run.json", "findings.json", "results.json", "report.html", "sites.jsonl"),
    *("readings", "arrays", "output"),
)
"""What a run lays beside its parts, and writes again."""


def open_folder(out: Path | None, resume: bool, asked: Mapping[str, Any]) -> Path:
    """The run folder: a new one, or when resuming `out` with nothing in it but complete parts.

    asked: the settings that both runs must share. A folder that is not there yet is made.
    Raises RequestError where there is no `out` to go on with, where it is no run folder, or
    where its run was asked for something else.
    """
    if resume and out is None:
        raise RequestError(
            "`--resume` was given without `--out`: name the run folder to go on with, such as "
            "`--out runs/Nov22_15-59-28_host --resume`."
        )
    if out is None or not resume or not out.exists():
        if resume:
            print(f"whynan: `{out}` is not there yet: a new run begins in it", file=sys.stderr)
        return new_folder(out)
    _check_same(Run(out), asked)
    for name in OWN:
        _remove(out / name)
    for part in (out / "parts").glob("*"):
        if not is_complete(part):
            _remove(part)
    return out


def is_complete(part: Path) -> bool:
    """Whether the part ran to its end."""
    return (part / "run.json").is_file() and Run(part).complete


def _check_same(run: Run, asked: Mapping[str, Any]) -> None:
    before = run.facts.get("settings", {})
    for name, value in strict_json.encode(asked).items():
        if before.get(name) != value:
            raise RequestError(
                f"`--resume` goes on with `{run.folder}`, whose `{name}` was "
                f"{before.get(name)!r}, not {value!r}: ask for the same, or for a new run folder."
            )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
