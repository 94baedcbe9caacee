"""Attributions and conductance out of a run folder's arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from probes.run import NamedArray, Run
from reports.figures.attribution import Attribution, Conductance, Source
from reports.reading.stretches import UNREADABLE, Stretch

PREFIX = ("attribution-", "conductance-")


def read_attributions(found: Sequence[Stretch], missing: list[str]) -> Iterator[Attribution]:
    """Every decision with all of its sources, in the order of the record."""
    for part, run in found:
        decisions: dict[tuple[str, str], list[NamedArray]] = {}
        for array in _arrays(PREFIX[0], part, run, missing):
            which = (str(array.about.get("sample")), str(array.about.get("decision")))
            decisions.setdefault(which, []).append(array)
        for place, ((_, decision), arrays) in enumerate(decisions.items()):
            about = arrays[0].about
            yield Attribution(
                name=f"{part}-attribution-{place}" if part != "run" else f"attribution-{place}",
                decision=decision,
                sample=str(about.get("sample_name") or f"sample {about.get('sample')}"),
                score=_number(about["score"]),
                baseline_score=_number(about["baseline_score"]),
                baseline=str(about.get("baseline", "")),
                delta=_number(about["delta"]),
                steps=int(about.get("steps", 0)),
                sources=tuple(map(_source, arrays)),
            )


def read_conductance(found: Sequence[Stretch], missing: list[str]) -> Iterator[Conductance]:
    """How much of each decision flows through each module."""
    for part, run in found:
        for place, array in enumerate(_arrays(PREFIX[1], part, run, missing)):
            modules = tuple(map(str, array.labels.get("module", ())))
            yield Conductance(
                name=f"{part}-conductance-{place}" if part != "run" else f"conductance-{place}",
                decision=str(array.about.get("decision")),
                modules=modules,
                values=tuple(np.asarray(array.values, float).ravel().tolist()),
            )


def _arrays(prefix: str, part: str, run: Run, missing: list[str]) -> Iterator[NamedArray]:
    for name in (each for each in run.arrays if each.startswith(prefix)):
        try:
            array = run.array(name)
            _demand_whole(array, prefix)
        except UNREADABLE as error:
            why = f"({type(error).__name__}: {error})"
            missing.append(f"array {name} of {part} cannot be read {why}")
        else:
            yield array


def _demand_whole(array: NamedArray, prefix: str) -> None:
    """Raises one of UNREADABLE where the array lacks what is to be drawn of it."""
    if prefix == PREFIX[0]:
        _source(array)
        for name in ("score", "baseline_score", "delta"):
            _number(array.about[name])
    elif len(array.labels.get("module", ())) != array.values.size:
        raise ValueError("its modules are not as many as its values")


def _number(value: Any) -> float:
    """A number that was not finite stands as null in the record."""
    return float("nan") if value is None else float(value)


def _source(array: NamedArray) -> Source:
    values = np.asarray(array.values, float).ravel()
    names: Any = array.labels.get("entry") or ()
    padding = array.about.get("padding") or ()
    return Source(
        key=str(array.about["key"]),
        values=tuple(values.tolist()),
        names=tuple(map(str, names if len(names) == len(values) else range(len(values)))),
        padding=tuple(map(bool, padding))
        if len(padding) == len(values)
        else (False,) * len(values),
    )
