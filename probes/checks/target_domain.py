"""WIR036: a loss function is asked for what it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.reading.domains import SIGNS, Asked, Targets
from probes.stepping.one_step import step_under


@dataclass(frozen=True, slots=True)
class TargetDomain:
    """The targets of a loss function lie outside of what its page says they are.

    torch does not look: labels of 0 and 1 where 1 and -1 are asked for (cosine embedding, margin
    ranking, hinge embedding, soft margin) make samples that add nothing; numbers outside of 0 to 1
    make a binary cross entropy that falls below any floor; counts below 0 (Poisson), probabilities
    below 0 (KL), classes that a row names twice, as a row of zeros and ones does (multilabel
    margin). Looked at is the first of the batches; what a weight of 0 or a mask over the single
    losses takes out is silence. A 0 beside both 1 and -1 may mean neither, and is a note.

    Sick: `F.cosine_embedding_loss(a, b, match)` of `match` 0 or 1.
    Healthy: `F.cosine_embedding_loss(a, b, 2 * match - 1)`.
    """

    batches: int = 4

    code: ClassVar[str] = "WIR036"
    rule: ClassVar[str] = "targets-outside-domain"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a line."""
        targets = Targets(experiment.subject.model)
        step_under(experiment.subject, experiment.step_batch, targets)
        if not any(each.reaches for each in targets.found):
            return
        for batch in islice(experiment.subject.batches, self.batches):
            try:
                step_under(experiment.subject, batch, targets)
            except ExperimentError:
                break
        told = set[str | None]()
        for each in targets.found:
            if each.reaches and each.source not in told:
                told.add(each.source)
                yield self._said(each, targets.lowest[each.source])

    def _said(self, asked: Asked, lowest: float) -> Finding:
        values, signs = asked.values, asked.name in SIGNS
        shown = ", ".join(f"{value:.4g}" for value in values[:3])
        more = f" and {len(values) - 3} more" if len(values) > 3 else ""
        idle = [value for value in values[:3] if asked.is_idle(value)] if signs else []
        count = int(asked.odd.sum())
        why = (
            f": the {int((asked.target == idle[0]).sum())} whose target is {idle[0]:g} add no "
            "gradient, so that nothing is learned from them"
            if idle
            else ""
        )
        meant = signs and lowest < 0
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE
            if meant
            else Verdict.WARN
            if asked.name == "margin_ranking_loss"
            else Verdict.FAIL,
            message=f"`{asked.name}` takes {asked.takes} as targets, and {count} of "
            f"{asked.target.numel()} are none of these ({shown}{more}){why}.",
            fix="Nothing, if a 0 means neither."
            if meant
            else "Give it `2 * target - 1` where 0 and 1 are held."
            if signs and set(values) <= {0.0}
            else f"Give it {asked.takes}, or leave these samples out.",
            site=asked.site,
            op=asked.name,
            phase="forward",
            source=asked.source,
            evidence=(
                Evidence("targets outside", count, 0, f"of {asked.target.numel()}"),
                Evidence("smallest target of all that was looked at", lowest),
            ),
        )
