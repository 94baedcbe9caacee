"""What a framework runs between the backward pass and the update, run again with the passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from nan_watch.case.symptom import Symptom
from nan_watch.inquest.hold import UNTIL, Inquest, Repeatable
from nan_watch.inquest.own_lines import no_word
from probes.finding import Evidence, Finding


def by_gradient_code(
    inquest: Inquest, symptom: Symptom, finding: Finding, step: Repeatable
) -> Finding | None:
    """The finding as what the framework does to the gradients tells it; None where it does not.

    It may be heard outside, and so is run only where the passes are well.
    """
    if step.until is None:
        return None
    more = replace(step, run=partial(_alone, step.until), packs=False, within=UNTIL)
    told = inquest.hold(symptom, finding, more)
    if inquest.found is None or inquest.found[1].culprit.given is not None:
        inquest.found = None
        return None
    none = Evidence("no capsule", "it could not hold the trainer's own code")
    return replace(told, evidence=(*told.evidence, none))


def _alone(run: Callable[[], Any]) -> Any:
    """What it returns; where it would speak to other processes, it raises."""
    with no_word():
        return run()
