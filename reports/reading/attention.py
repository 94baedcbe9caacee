"""Attention maps out of a run folder's arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from probes.run import Run
from reports.figures.attention import Attention
from reports.reading.stretches import UNREADABLE, Stretch

PREFIX = "attention-"


def read_attention(found: Sequence[Stretch], missing: list[str]) -> Iterator[Attention]:
    """Every map of every stretch; one that cannot be read is said as missing."""
    for part, run in found:
        for name in run.arrays:
            if name.startswith(PREFIX):
                try:
                    yield _map(part, name, run)
                except UNREADABLE as error:
                    why = f"({type(error).__name__}: {error})"
                    missing.append(f"array {name} of {part} cannot be read {why}")


def _map(part: str, name: str, run: Run) -> Attention:
    array = run.array(name)
    about = array.about
    weights = np.asarray(array.values, np.float32)
    if weights.ndim != 3 or 0 in weights.shape:
        raise ValueError(f"its shape is {weights.shape}, and (head, query, key) was expected")
    heads, queries, keys = weights.shape
    sample = about.get("sample")
    called = about.get("sample_name")
    return Attention(
        name=f"{part}-{name}" if part != "run" else name,
        site=str(about["site"]),
        layer=int(about["layer"]),
        sample=(f"sample {sample}" if sample is not None else "the batch")
        + (f": {called}" if called else ""),
        row=about.get("row"),
        heads=_named(array.labels.get("head"), heads),
        weights=weights,
        query_axis=array.axes[1],
        key_axis=array.axes[2],
        queries=_named(about.get("queries"), queries),
        keys=_named(about.get("keys"), keys),
        query_padding=_marked(about.get("query_padding"), queries),
        key_padding=_marked(about.get("padding"), keys),
        hidden=_marked(about.get("hidden"), keys),
        masked=_marked(about.get("masked_rows"), queries),
        named=about.get("queries") is not None and about.get("keys") is not None,
    )


def _named(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is not None and len(names) == count:
        return tuple(str(name) for name in names)
    return tuple(map(str, range(count)))


def _marked(marks: Sequence[bool] | None, count: int) -> Any:
    if marks is not None and len(marks) == count:
        return np.array(marks, bool)
    return np.zeros(count, bool)
