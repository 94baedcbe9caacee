"""What led to a step that is not finite: told as evidence of its finding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from nan_watch.case.symptom import Symptom
from nan_watch.growth import climb
from nan_watch.sampled.edges import Edges
from probes.finding import Evidence, Finding

POINTS = 5  # healthy steps that a growth is read from, at least
BITS = 3.0  # powers of two that it is of, at least
LOOKS = 6  # at an argument that are told


def with_trends(finding: Finding, symptom: Symptom, edges: Edges) -> Finding:
    """The finding with how the arguments of its line and the numbers of its site came to it."""
    trends = (*_arguments(finding, edges), *_growths(finding, symptom))
    news = [each for each in trends if each not in finding.evidence]
    return replace(finding, evidence=(*finding.evidence, *news)) if news else finding


def _arguments(finding: Finding, edges: Edges) -> Iterator[Evidence]:
    for edge, past in edges.of(finding.source).items():
        for step, value in past[-LOOKS:]:
            yield Evidence(str(edge), value, step=step)


def _growths(finding: Finding, symptom: Symptom) -> Iterator[Evidence]:
    streams = [("loss", "value", "<loss>", "the loss")]
    if finding.site is not None:
        streams += [
            (kind, "abs_max", finding.site, f"the largest {kind} of {finding.site}")
            for kind in ("output", "output_grad")
        ]
    for kind, stat, site, what in streams:
        past = [pair for pair in symptom.past.of(kind, stat, site) if pair[0] < symptom.step]
        steps = np.array([step for step, _ in past], np.int64)
        sizes = np.abs([value for _, value in past])
        if len(sizes) >= POINTS and (sizes > 0).all():
            grown = climb(steps, np.log2(sizes), POINTS)
            if grown is not None and grown.rise >= BITS:
                unit = f"a step, over the last {grown.span + 1}"
                yield Evidence(f"{what} grew by a steady factor", 2.0**grown.slope, 1, unit)
