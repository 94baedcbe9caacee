"""What makes a refused step finite without mending its cause: listed as relief, never as proof."""

from __future__ import annotations

from collections.abc import Iterator

from nan_watch.case.material import Case
from nan_watch.origin.held import ALONG
from probes.batch import sample_count
from probes.finding import Evidence
from probes.layout import Layout
from probes.patch import only_samples
from probes.subject import Batch

NAMED = 4  # samples that are named


def reliefs(case: Case, rows: Batch, layout: Layout | None, part: str) -> Iterator[Evidence]:
    """The guilty samples left out of the batch, where they are known and others are left.

    Nothing is said where the rest cannot be run without them. rows: what has a row for each
    sample. part: what is run, in words.
    """
    trial, samples = case.trial, None if case.origin is None else case.origin.samples
    count = None if trial is None else sample_count(rows, layout)
    if trial is None or not samples or count is None or not len(samples) < min(count, ALONG):
        return  # none is left, or not all of the guilty are known
    kept = [each for each in range(count) if each not in samples]
    finite = trial.tried(lambda: [only_samples(rows, kept, layout)])
    if finite is None:
        return
    named = ", ".join(map(str, samples[:NAMED])) + (", ..." if len(samples) > NAMED else "")
    word = "sample" if len(samples) == 1 else "samples"
    yield Evidence(
        f"relief: {part} without {word} {named}", "finite" if finite else "not finite either"
    )
