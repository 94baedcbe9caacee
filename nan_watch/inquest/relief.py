"""What makes a refused step finite without mending its cause: listed as relief, never as proof."""

from __future__ import annotations

from collections.abc import Iterator

from nan_watch.case.material import Case
from nan_watch.origin.held import FIRST
from probes.batch import sample_count
from probes.finding import Evidence
from probes.layout import Layout
from probes.patch import only_samples

NAMED = 4  # samples that are named


def reliefs(case: Case, layout: Layout | None) -> Iterator[Evidence]:
    """The guilty samples left out of the batch, where they are known and others are left."""
    trial, samples = case.trial, None if case.origin is None else case.origin.samples
    count = None if trial is None else sample_count(trial.batch, layout)
    if trial is None or not samples or count is None or not len(samples) < min(count, FIRST):
        return  # none is left, or not all of the guilty are known
    kept = [each for each in range(count) if each not in samples]
    finite = trial.is_finite(lambda: [only_samples(trial.batch, kept, layout)])
    named = ", ".join(map(str, samples[:NAMED])) + (", ..." if len(samples) > NAMED else "")
    word = "sample" if len(samples) == 1 else "samples"
    yield Evidence(
        f"relief: the step without {word} {named}", "finite" if finite else "not finite either"
    )
