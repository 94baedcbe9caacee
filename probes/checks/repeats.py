"""WIR001: the same step does not give the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.compare import Baseline
from probes.experiment import LOSS, Experiment, attempted, copied
from probes.finding import Evidence, Finding, Verdict
from probes.place import place_of
from probes.subject import Batch


@dataclass(frozen=True, slots=True)
class Repeats:
    """The same batch, from the same weights and random states, gives other numbers.

    Run twice in the subject's own mode, and twice in evaluation mode. It is a note: it makes
    every comparison of two runs coarser, and all checks allow for the noise that is named here.

    Sick: `x = x + torch.rand(1, generator=generator)`, with a generator that stands in no module.
    Healthy: the same with torch's own generator, or a module's, which are put back.
    """

    code: ClassVar[str] = "WIR001"
    rule: ClassVar[str] = "not-repeatable"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """A note for the step, and one for evaluation."""
        if experiment.subject.train_step is None:
            yield from self._of("the training loss", self._training(experiment), experiment)
        yield from self._of("evaluation", experiment.evaluated, experiment)

    def _training(self, experiment: Experiment) -> Baseline:
        subject = experiment.subject

        def loss(batch: Batch) -> object:
            with attempted("`Subject.loss`"):
                return {LOSS: subject.loss(subject.model, copied(batch))}

        return Baseline(loss, experiment.batch, subject.model)

    def _of(self, what: str, baseline: Baseline, experiment: Experiment) -> Iterator[Finding]:
        if baseline.noise == 0:
            return
        moving = baseline.moving
        where = None if moving is None else place_of(moving, experiment.subject.model)
        at = "" if where is None else f", first {where.words}"
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE,
            message=f"{what} of the same batch, from the same weights and random states, differs "
            f"by {baseline.noise:.3g} from run to run{at}.",
            fix="Look for a generator of its own, a clock, a counter or a set's order; on a GPU "
            "`torch.use_deterministic_algorithms(True)` names the operator.",
            site=None if where is None else where.site,
            phase="forward",
            evidence=(Evidence("difference of two unchanged runs", baseline.noise, 0.0),),
        )
