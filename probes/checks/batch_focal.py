"""WIR059: the focal weight is one for the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.operators.batch_focal import Focal


@dataclass(frozen=True, slots=True)
class BatchFocal:
    """A focal loss is made of a cross entropy that is one number already, a mean or a sum.

    What is to weigh each sample by how hard it is takes the probability of its label to be
    exp(-cross entropy); of a mean that is one number for all, and the loss but a function of the
    mean: easy samples weigh as much as hard ones. It is told by the operators: a cross entropy of
    several is reduced, and multiplied by a power of 1 - exp(-it), of the very same, with a gradient
    through both. One of a sample at a time, as in a loop over samples, is healthy, and so is an
    exp of anything else, as of a parameter that weighs tasks.

    Sick: `ce = F.cross_entropy(z, y)`, `((1 - torch.exp(-ce)) ** 2 * ce).mean()`.
    Healthy: `ce = F.cross_entropy(z, y, reduction="none")` there.
    """

    code: ClassVar[str] = "WIR059"
    rule: ClassVar[str] = "one-focal-weight"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Several samples."""
        return None if experiment.size > 1 else "the batch cannot be cut into two samples or more"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a line."""
        for each in experiment.operated.focals:
            yield self._finding(each)

    def _finding(self, focal: Focal) -> Finding:
        at = "" if focal.weighed is None else f" ({focal.weighed})"
        own = [exp(-abs(x)) for x in focal.each.flatten().tolist() if x]  # 0 is of what is ignored
        apart = f", where those of its {len(own)} parts go from {min(own):.2g} to {max(own):.2g}"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message="the focal weight is one for the whole batch: the cross entropy is one number "
            "already when it is taken for a sample's, and weighed by a power of 1 - "
            f"{exp(-abs(focal.value)):.2g}{at}{apart if own else ''}; easy samples count as much "
            "as hard ones.",
            fix='Give the cross entropy `reduction="none"`, and take the mean of what is weighed.',
            site=focal.site,
            phase="forward",
            source=focal.source,
            evidence=(
                Evidence("cross entropy that is weighed as one", focal.value),
                *(Evidence(f"{name} probability of a part", f(own)) for name, f in _ENDS if own),
            ),
        )


_ENDS = (("least", min), ("largest", max))
