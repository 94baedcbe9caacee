"""WIR010: the loss is not the cross entropy of what it is given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.scored import Scored, scored

TWICE = "softmax is applied twice: cross entropy, which applies its own, is given probabilities"
NO_LOG = "the log is forgotten: the loss is minus the probability of the label, not minus its log"
RAW = "the loss is minus the raw score of the label: nothing normalises it, and it has no floor"


@dataclass(frozen=True, slots=True)
class LossFormula:
    """The loss of classes equals a formula that is known to be wrong.

    From outputs and labels the cross entropy is computed, and what it becomes with softmax twice,
    with the log forgotten, or with nothing normalised; the one that the subject's loss equals, to
    five digits, tells what it does. None of them is silence. A sum over places, and a start far
    above the entropy of guessing evenly (`high` times), are notes.

    Sick: `F.cross_entropy(model(x).softmax(-1), y)`; `F.nll_loss(model(x).softmax(-1), y)`.
    Healthy: `F.cross_entropy(model(x), y)`; `F.nll_loss(model(x).log_softmax(-1), y)`.
    """

    alike: float = 1e-5
    high: float = 3.0

    code: ClassVar[str] = "WIR010"
    rule: ClassVar[str] = "loss-formula"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Labels of classes, an output that scores them, and a loss."""
        if LOSS not in experiment.evaluated.ran.outputs:
            return "the loss could not be had: `Subject.loss` raises"
        if not any(True for _ in scored(experiment)):
            return "no output scores the classes of a key that is known to hold labels"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        loss = float(experiment.evaluated.ran.outputs[LOSS])
        for each in scored(experiment):
            right = each.picked(each.scores.log_softmax(1))
            if self._is(loss, right) and not each.are_probabilities:
                if loss > self.high * math.log(each.classes):
                    yield self._high(loss, each)
                return
            for words, value in _wrong(each):
                if self._is(loss, value) and (
                    each.are_probabilities or not self._is(right, value, 100)
                ):
                    yield self._said(each, words, loss, right)
                    return
            if len(each.labels) > 1 and self._is(loss, right * len(each.labels)):
                yield self._summed(loss, each)
                return

    def _is(self, one: float, two: float, times: float = 1.0) -> bool:
        return abs(one - two) <= times * self.alike * max(abs(one), abs(two), 1e-3)

    def _said(self, each: Scored, words: str, loss: float, right: float) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"{words} (`{each.output}` against `{each.labels_key}`).",
            fix="Give `F.cross_entropy` the raw scores, or `F.nll_loss` their `log_softmax`.",
            site="<loss>",
            phase="forward",
            evidence=(
                Evidence("the loss, which equals that formula", loss),
                Evidence("cross entropy of the output as it is", right),
                Evidence("entropy of guessing evenly", math.log(each.classes)),
            ),
        )

    def _high(self, loss: float, each: Scored) -> Finding:
        even = math.log(each.classes)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE,
            message=f"the loss starts at {loss:.3g}, {loss / even:.1f} times what guessing evenly "
            f"over {each.classes} classes gives.",
            fix="Nothing, if the model was trained on something else; else draw smaller weights "
            "for what gives the scores.",
            site="<loss>",
            phase="forward",
            evidence=(Evidence("loss", loss, self.high * even),),
        )

    def _summed(self, loss: float, each: Scored) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE,
            message=f"the loss is summed over {len(each.labels)} places: its gradient grows with "
            "the batch.",
            fix="Nothing, if the learning rate is meant for a sum; else take the mean.",
            site="<loss>",
            phase="forward",
            evidence=(Evidence("loss", loss), Evidence("loss a place", loss / len(each.labels))),
        )


def _wrong(each: Scored) -> Iterator[tuple[str, float]]:
    """What the loss would be by each wrong formula."""
    scores, soft = each.scores, each.scores.softmax(1)
    if each.are_probabilities:
        yield TWICE, each.picked(scores.log_softmax(1))
        yield NO_LOG, each.picked(scores)
        return
    yield TWICE, each.picked(soft.log_softmax(1))
    yield NO_LOG, each.picked(soft)
    yield RAW, each.picked(scores)
