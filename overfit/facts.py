"""What holds of a suite's samples, whatever the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from overfit.ceilings import Ceiling
from overfit.floors import Floor


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds of the samples, whatever the model: floors and ceilings.

    unjudged: sentences on what they could not be told of.
    """

    floors: tuple[Floor, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()
    unjudged: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As a suite's settings hold it."""
        return {
            "floors": [each.as_json() for each in self.floors],
            "ceilings": [each.as_json() for each in self.ceilings],
            "floors_not_judged": list(self.unjudged),
        }
