"""What filled the memory of a step that ran out of it."""

from __future__ import annotations

from collections.abc import Mapping

from probes.run import Run
from reports.figures.memory import Held, Memory
from reports.reading.stretches import of, settings


def read_memory(name: str, run: Run) -> Memory | None:
    """Bytes by site and pass, and of the largest tensors; None where no step ran out."""
    told = settings(run).get("out_of_memory")
    if not isinstance(told, Mapping):
        return None
    by_site = tuple(
        Held(f"{site} ({phase})" if phase else str(site), int(size))
        for site, phase, size in told.get("by_site") or ()
    )
    largest = tuple(Held(str(what), int(size)) for what, size in told.get("largest") or ())
    if not by_site and not largest:
        return None
    size = told.get("size")
    step = told.get("step")
    return Memory(
        part=name,
        step=int(step) if step is not None else None,
        size=int(size) if size is not None else sum(each.size for each in by_site),
        by_site=by_site,
        largest=largest,
        of=of(name, run),
    )
