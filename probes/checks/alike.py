"""WIR019: all units of a layer, or modules beside each other, are the same, and stay so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.stepping.walk import STEPS


@dataclass(frozen=True, slots=True)
class Alike:
    """The units of a layer begin with equal weights, and are still equal once they have moved.

    Each gets the same gradient, so that the layer is one unit wide for good. Looked at are linear,
    convolutional and recurrent layers after the first steps: weights that start from zero and
    then part are healthy, as those of a head or of a residual branch are. Modules beside each
    other of which the same is true, such as an ensemble's members, are one module several times;
    copies that get gradients of their own, as the layers of `nn.TransformerEncoder`, part.

    Sick: `nn.init.constant_(layer.weight, 0.01)` in every layer.
    Healthy: `nn.init.zeros_(head.weight)`.
    """

    code: ClassVar[str] = "WIR019"
    rule: ClassVar[str] = "units-alike"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding of the first such layer, and one of the first modules."""
        yield from self._units(experiment)
        for names in experiment.walked.copies[:1]:
            yield self._copies(names)

    def _units(self, experiment: Experiment) -> Iterator[Finding]:
        alike = experiment.walked.alike
        if not alike:
            return
        parameters = dict(experiment.subject.model.named_parameters(remove_duplicate=False))
        more = f", and so have {len(alike) - 1} other layers" if len(alike) > 1 else ""
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"all units of `{alike[0]}` have the same weights after {STEPS} steps, as at "
            f"the start{more}: they never part.",
            fix="Draw the weights at random, as torch does by itself.",
            site=alike[0].rpartition(".")[0] or alike[0],
            phase="update",
            evidence=(Evidence("units that are one", parameters[alike[0]].shape[0], 1),),
        )

    def _copies(self, names: tuple[str, ...]) -> Finding:
        every = f"{', '.join(f'`{name}`' for name in names[:-1])} and `{names[-1]}`"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{every} are copies that never part: each begins with the same weights, gets "
            f"the same gradients, and after {STEPS} steps all have the same weights still.",
            fix="Draw the weights of each by itself: call what makes one as often as there are to "
            "be, and copy none of them.",
            site=names[1],
            phase="update",
            evidence=(Evidence("modules that are one", len(names), 1),),
        )
