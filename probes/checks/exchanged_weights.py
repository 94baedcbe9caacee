"""IDX027: samples are mixed by some weights, and their labels by other ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.scoring.mixing import Mixing, Row, mixing


@dataclass(frozen=True, slots=True)
class ExchangedWeights:
    """Of two samples that are mixed, the label of the one is weighed by the other's weight.

    Mixup and cutmix make a row of two samples, and score it against both labels, each by as much
    as the row holds of it. From one random state, all samples are changed a little, each in its
    own way, and what a module is given tells of which samples each row is made; then one label
    after the other is changed, and the gradient of what is scored tells whose labels score the
    row. Told are weights that are exchanged, and not near one half, and partners that are one
    sample for the input and another for the label. What is mixed inside of the model, past its
    first layers, is not looked at.

    Sick: `x = lam * x[order] + (1 - lam) * x`, `lam * loss(y) + (1 - lam) * loss(y[order])`.
    Healthy: `x = lam * x + (1 - lam) * x[order]`, and the same loss.
    """

    code: ClassVar[str] = "IDX027"
    rule: ClassVar[str] = "exchanged-weights"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Samples, labels, and a loss."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        if experiment.size < 3:
            return "the batch cannot be cut into three samples or more"
        if not experiment.targets:
            return "no key is known to hold labels: declare it by `Layout(labels=(Labels(...),))`"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        found = mixing(experiment)
        if found is not None:
            yield resting_on(self._finding(found), experiment.samples_guessed)

    def _finding(self, found: Mixing) -> Finding:
        own = found.how == "exchanged"
        what = (
            "the weights of samples and labels are exchanged"
            if own
            else ("samples are mixed with other samples than their labels are")
        )
        at = f" at {found.scored}" if found.scored else ""
        first = max(found.inputs, key=lambda i: found.inputs[i])
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if own else Verdict.WARN,
            message=f"{what}: row {found.row} holds {_words(found.inputs)} of `{found.key}`, and "
            f"is scored{at} against {_words(found.labels)} of `{found.label}`.",
            fix="Weigh each label by what the row holds of its sample: lam of `x` and of `y`'s "
            "loss, 1 - lam of `x[order]` and of `y[order]`'s."
            if own
            else "Draw the order of the partners once, and use it for inputs and labels.",
            site=LOSS,
            phase="forward",
            source=found.mixed or found.scored,
            samples=found.rows,
            where={"sample": found.row},
            evidence=(
                Evidence(f"of sample {first} in the row", found.inputs[first]),
                Evidence("of its label in the row's loss", found.labels.get(first, 0.0)),
                Evidence("rows of which it is so", len(found.rows), 1),
            ),
        )


def _words(row: Row) -> str:
    return " and ".join(f"{weight:.3g} of sample {i}'s" for i, weight in row.items())
