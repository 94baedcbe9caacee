"""The run itself and its parts, in reading order, and how each is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from probes.run import Run

Stretch = tuple[str, Run]
Found = TypeVar("Found")

UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError)


def stretches(run: Run, missing: list[str] | None = None) -> list[Stretch]:
    """The run as `run`, then its parts: suites by their size, after what has none.

    missing: takes what is said of parts that cannot be read.
    """
    parts = []
    for path in sorted((run.folder / "parts").glob("*/run.json")):
        try:
            parts.append((path.parent.name, Run(path.parent)))
        except UNREADABLE as error:
            if missing is not None:
                missing.append(f"part {path.parent.name} cannot be read ({error})")
    return [("run", run), *sorted(parts, key=_order)]


def torn(found: Sequence[Stretch]) -> Iterator[str]:
    """What is said of a record that was closed and has lost its readings."""
    for name, run in found:
        if run.complete and not len(run.steps) and (run.streams or not run.has_readings):
            yield f"the readings of {name}, whose `readings/steps.i64` is empty or not there"


def settings(run: Run) -> dict[str, object]:
    """The run's settings; empty where the record has none that can be read."""
    found = run.facts.get("settings")
    return found if isinstance(found, dict) else {}


def _order(named: Stretch) -> tuple[int, str]:
    name, part = named
    size = settings(part).get("size", 0)
    return size if isinstance(size, int) else 0, name


def title(name: str, run: Run) -> str:
    """What the stretch is, in words."""
    asked = settings(run)
    part = asked.get("part")
    if "size" in asked and "seed" in asked:
        unit = asked.get("unit", "samples")
        kind = "" if part == "suite" else f", {part}"
        return f"Overfitting {asked['size']} {unit}, seed {asked['seed']}{kind}"
    return "Hunt for what is not finite" if part == "hunt" else f"Training, {name}"


def of(name: str, run: Run) -> str:
    """What the stretch is, after what is told of it, such as `: overfitting 5 samples, seed 0`."""
    whole = title(name, run)
    return "" if whole == "Training, run" else f": {whole[0].lower()}{whole[1:]}"


def each(
    read: Callable[[str, Run], Found | None],
    found: Sequence[Stretch],
    what: str,
    missing: list[str],
) -> Iterator[Found]:
    """What was read of every stretch that has it; one that cannot be read is said as missing."""
    for name, run in found:
        try:
            one = read(name, run)
        except UNREADABLE as error:
            missing.append(f"{what} of {name} cannot be read ({type(error).__name__}: {error})")
            continue
        if one is not None:
            yield one
