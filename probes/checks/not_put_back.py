"""WIR035: weights that were moved for a second pass are not put back before the optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.stepping.astray import Astray, astray, moved_at


@dataclass(frozen=True, slots=True)
class NotPutBack:
    """What the optimizer steps from is not what the first pass of the step was made with.

    Between two passes of one `train_step` weights are moved from outside of the model, as for
    adversarial training (FGM, PGD, AWP) or sharpness-aware minimisation, and when the optimizer is
    stepped most of that is still there: a `restore` that matches no name, or comes too late, or a
    backup that was taken anew. Then something else than the optimizer moves them at every step.
    What is put back after the step by subtracting it, what moves before the first pass or after
    the last (decay by hand, clipping, a projection), what a module itself writes as it is called,
    and steps of descent by hand are silence.

    Sick: `attack("embedding"); loss().backward(); restore("emb."); optimizer.step()`.
    Healthy: `attack("embedding"); loss().backward(); restore("embedding"); optimizer.step()`.
    """

    aimed: float = 0.5  # cosine with the gradient, from which on it is climbed on purpose

    code: ClassVar[str] = "WIR035"
    rule: ClassVar[str] = "weights-not-put-back"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A step of the subject's own."""
        if experiment.subject.train_step is None:
            return "the subject has no `train_step`: the step is whynan's own"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        if experiment.stepped.passes < 2:
            return
        found = astray(experiment.subject, experiment.step_batch)
        if found:
            worst = max(found, key=lambda each: each.moved)
            source = moved_at(experiment.subject, experiment.step_batch, worst.name)
            yield self._said(worst, len(found) - 1, source)

    def _said(self, worst: Astray, more: int, source: str | None) -> Finding:
        others = f" and {more} more" if more else ""
        way = "up its gradient " if worst.along >= self.aimed else ""
        left = (
            "is put back only after the optimizer's step, which is lost with it"
            if worst.undone
            else f"is not put back: when the optimizer is stepped, {100 * worst.kept:.0f}% of the "
            "way is still there, and stays, so that not the optimizer alone moves it"
        )
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if worst.along >= self.aimed else Verdict.WARN,
            message=f"`{worst.name}`{others}, moved {way}by {worst.moved:.3g} between two passes "
            f"of one step, {left}.",
            fix="Put the weights back after the second pass and before `optimizer.step()`: see "
            "that what restores matches the same names, and that its backup was taken before the "
            "first move.",
            site=worst.name.rpartition(".")[0] or worst.name,
            phase="update",
            source=source,
            evidence=(
                Evidence(f"how far `{worst.name}` is moved between passes", worst.moved),
                Evidence("share of it that is there at the optimizer's step", worst.kept, 0.5),
                Evidence("cosine of the way with the gradient", worst.along),
            ),
        )
