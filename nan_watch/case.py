"""What is known of a refused step: the material of the causes."""

from __future__ import annotations

from dataclasses import dataclass

from nan_watch.origin import Origin
from nan_watch.symptom import Symptom

NOT_REPLAYED = "the step was not replayed: hand it to `watch.step(fn)`, or hunt with a Subject"


@dataclass(frozen=True, slots=True)
class Case:
    """A poisoned step, and, where it could be replayed, its origin.

    symptom: what the watch itself saw. origin: found by replay; None where that was not to be.
    """

    symptom: Symptom
    origin: Origin | None = None

    @property
    def lacks_origin(self) -> str | None:
        """Why the origin is not known; None where it is."""
        return NOT_REPLAYED if self.origin is None else None
