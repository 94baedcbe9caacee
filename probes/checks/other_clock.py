"""WIR050: a schedule of epochs is stepped every step, or one of steps every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.stepping.one_step import made
from probes.stepping.paced import Pace, Paced
from probes.stepping.schedules import rates_to_come


@dataclass(frozen=True, slots=True)
class OtherClock:
    """A framework steps the schedule by another clock than the schedule was made for.

    Asked of a schedule that a framework steps, in a training whose length is known. One that is
    stepped by epoch, and in all the epochs there are never gets to `reached` of the rate that it
    comes to later, within `long` of its steps, counts steps. One that is stepped by step, and has
    fallen by half and comes to its turn or its end in as many steps as there are epochs, where
    the training has `shorter` times as many steps or more, counts epochs. Both are warnings.

    Sick: `{"scheduler": OneCycleLR(optimizer, 0.1, trainer.estimated_stepping_batches)}`, whose
    `interval` is "epoch" where nothing is said; `CosineAnnealingLR(optimizer, max_epochs)` with
    `interval="step"`.
    Healthy: the same two, each with the other interval.
    """

    reached: float = 0.2
    long: int = 20_000
    shorter: int = 3
    fewest: int = 3

    code: ClassVar[str] = "WIR050"
    rule: ClassVar[str] = "schedule-by-another-clock"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A schedule that a framework steps in a training of known length."""
        if experiment.subject.schedule is None:
            return "the subject has no schedule"
        if not _paces(experiment):
            return "no framework says how often the schedule is stepped, and how long that goes on"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a schedule."""
        for pace in _paces(experiment):
            told = self._by_epoch(pace) if pace.by_epoch else self._by_step(pace)
            if told is not None:
                yield told

    def _by_epoch(self, pace: Pace) -> Finding | None:
        whole = int(pace.whole or 0)
        rates = rates_to_come(pace.schedule, self.long)
        most, top = max(rates[:whole], default=0.0), max(rates, default=0.0)
        if not rates or most >= self.reached * top:
            return None
        return self._found(
            f"the schedule is stepped once an epoch, {whole} times in all, and the learning rate "
            f"is then {most:.3g} at most; the {top:.3g} it is made for comes after "
            f"{rates.index(top)} of its steps: it counts steps where epochs pass.",
            'Give it `"interval": "step"`, or its lengths in epochs.',
            Evidence("largest rate of the training", most, self.reached * top),
        )

    def _by_step(self, pace: Pace) -> Finding | None:
        epochs, whole = int(pace.epochs or 0), int(pace.whole or 0)
        if epochs < self.fewest or whole < self.shorter * epochs:
            return None
        rates = rates_to_come(pace.schedule, 2 * epochs + 2)
        end = _turn(rates)
        if end is None or abs(end - epochs) > 1 or rates[min(end, len(rates) - 1)] > max(rates) / 2:
            return None
        return self._found(
            f"the schedule comes to its end after {end} steps, where there are {epochs} epochs of "
            f"{whole / epochs:.3g} steps, and it is stepped every step: it counts epochs.",
            'Give it `"interval": "epoch"`, or its lengths in steps.',
            Evidence("steps to its end", end, whole),
        )

    def _found(self, message: str, fix: str, evidence: Evidence) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=message,
            fix=fix,
            site="<optimizer>",
            phase="update",
            evidence=(evidence,),
        )


def _paces(experiment: Experiment) -> list[Pace]:
    """Those whose whole length is known."""
    schedule = made(experiment.subject).schedule
    every = schedule.paces if isinstance(schedule, Paced) else ()
    return [pace for pace in every if pace.whole and hasattr(pace.schedule, "optimizer")]


def _turn(rates: list[float]) -> int | None:
    """The step after its top at which the rate no longer falls, if it falls before."""
    top = rates.index(max(rates))
    end = next((i for i in range(top, len(rates) - 1) if rates[i + 1] >= rates[i]), None)
    if end is None:  # it raised there, as a `OneCycleLR` does
        return len(rates)
    return end if end > top else None
