"""FIT005: a suite ended by an exception or was killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class Died:
    """The suite ended by an exception of the user's code, or its process was killed.

    Sick: code that holds for one batch size only.

        loss=lambda model, batch: F.cross_entropy(model(batch["x"].view(32, 8)), batch["y"])

    Healthy: `batch["x"].view(-1, 8)`.
    """

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT005"
    rule: ClassVar[str] = "suite-died"

    def lacks(self, curves: Curves) -> str | None:
        """Nothing."""
        return None

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where the suite died."""
        if curves.ended != "died":
            return
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=(
                f"the suite of {curves.suite} (seed {curves.seed}) died after "
                f"{len(curves.losses)} of {curves.budget} steps: {curves.said}"
            ),
            fix="Make the step run on a batch of these samples alone.",
            step=len(curves.losses),
            source=curves.source,
            evidence=(Evidence("steps done", len(curves.losses), curves.budget),),
        )
