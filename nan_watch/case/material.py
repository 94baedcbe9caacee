"""What is known of a refused step: the material of the causes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from torch.optim import Optimizer

from nan_watch.case.symptom import Symptom
from nan_watch.case.trial import Trial
from nan_watch.origin.closeup import Call, Made
from nan_watch.origin.events import Event
from nan_watch.origin.find import Origin

NOT_REPLAYED = "the step was not replayed: hand it to `watch.step(fn)`, or hunt with a Subject"


@dataclass(frozen=True)
class Case:
    """A poisoned step, and, where it could be replayed, its origin.

    symptom: what the watch itself saw. origin: found by replay; None where that was not to be.
    trial: runs the step with a patch. optimizer: the one that would have written.
    """

    symptom: Symptom
    origin: Origin | None = None
    trial: Trial | None = None
    optimizer: Optimizer | None = None

    @property
    def lacks_origin(self) -> str | None:
        """Why the origin is not known; None where it is."""
        return NOT_REPLAYED if self.origin is None else None

    @property
    def birth(self) -> Event | None:
        """The operator that gave birth in this step; None where it was there before."""
        return None if self.origin is None or self.origin.closeup is None else self.origin.culprit

    @property
    def call(self) -> Call | None:
        """The call of the birth as the user wrote it: the forward one of a backward birth."""
        closeup = None if self.origin is None else self.origin.closeup
        return None if closeup is None else closeup.written

    @property
    def op(self) -> str | None:
        """The name of that call's operator, that of one that works in place without its `_`."""
        return None if self.call is None else self.call.op.removesuffix("_")

    @property
    def is_backward(self) -> bool:
        """Whether the birth lies in a backward pass."""
        return self.birth is not None and self.birth.phase == "backward"

    def at_bad(self, place: int = 0) -> Tensor | None:
        """(element,) what the call read at the place where the birth is not finite."""
        closeup = None if self.origin is None else self.origin.closeup
        return None if closeup is None else closeup.at_bad(place)

    @cached_property
    def makers(self) -> tuple[Made, ...]:
        """The operators that made what the call read, nearest first."""
        if self.call is None:
            return ()
        return tuple(each for made in self.call.made.values() for each in made.line())
