"""STA016: the model is told of another draw than that which its input was made with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.modules import every_module
from probes.states.drawn_again import DrawnAgain, drawn_again


@dataclass(frozen=True, slots=True)
class DrawnTwice:
    """A number is drawn for each sample to make its input, and drawn anew to tell the model of it.

    Such as the time of a diffusion: noise is added for one, and another is handed to the model, so
    that what it is told has nothing to do with what it sees. Two draws of one kind and range are
    exchanged between samples, one after the other: the first moves an input of the model and is
    told to nobody, the second moves nothing but what tells of it. Both may be told, and a draw of
    which nobody is told may be the only one.

    Sick: `x = noised(x0, torch.randint(T, (n,)))` and `model(x, torch.randint(T, (n,)))`.
    Healthy: `t = torch.randint(T, (n,))`; `model(noised(x0, t), t)`.
    """

    code: ClassVar[str] = "STA016"
    rule: ClassVar[str] = "drawn-twice"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        with suppress(ExperimentError):
            for each in drawn_again(experiment):
                yield self._finding(experiment, each)

    def _finding(self, experiment: Experiment, each: DrawnAgain) -> Finding:
        first, second = (f" at {line}" if line else "" for line in (each.first, each.second))
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{each.input}` is made with what `{each.op}` draws{first}, and `{each.told}` "
            f"tells the model what it draws anew{second}: the one has nothing to do with the "
            "other.",
            fix="Draw once, and give the model what its input was made with.",
            site=next(every_module(experiment.subject.model))[0],
            phase="forward",
            source=each.second,
            evidence=(Evidence("draws of one kind, of which the model is told one", 2, 1),),
        )
