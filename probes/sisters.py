"""Tells whether the packages beside this one are ours: their names are plain words."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import NoReturn

SISTERS = ("probes", "nan_watch", "overfit", "reports")


def check_sisters() -> None:
    """All four packages come from one place.

    Raises ImportError that names the stranger and the way out where one of them is found
    elsewhere, such as a user's own `reports` package that stands before ours on `sys.path`;
    within the `whynan` command the sentence is printed, and the status is 2.
    """
    home = Path(__file__).resolve().parent.parent
    for name in SISTERS:
        spec = importlib.util.find_spec(name)
        place = _place(spec.origin, spec.submodule_search_locations) if spec else None
        if place != home / name:
            _refuse(stranger(name, place, home))


def _refuse(sentence: str) -> NoReturn:
    if Path(sys.argv[0]).name != "whynan":
        raise ImportError(sentence)
    print(f"whynan: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def _place(origin: str | None, folders: object) -> Path | None:
    if origin:
        path = Path(origin).resolve()
        return path.parent if path.name == "__init__.py" else path
    found = [Path(str(folder)).resolve() for folder in folders] if folders else []  # type: ignore[attr-defined]
    return found[0] if found else None


def stranger(name: str, place: Path | None, home: Path) -> str:
    """The sentence for a package that is not ours."""
    return (
        f"`import {name}` finds {place or 'nothing'}, not whynan's own {home / name}: a file or "
        f"folder named `{name}` stands before it on sys.path. Rename it, or run `python -P`, so "
        "that the current folder is not searched."
    )
