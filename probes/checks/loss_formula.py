"""WIR010: the loss is not the cross entropy of what it is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from probes.batch import sample_count, take
from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.first_step import first_batch
from probes.scoring.scored import Scored, scored
from probes.stepping.growth import Growth, growing
from probes.stepping.one_step import loss_after
from probes.subject import Batch

TWICE = "softmax is applied twice: cross entropy, which applies its own, is given probabilities"
NO_LOG = "the log is forgotten: the loss is minus the probability of the label, not minus its log"
RAW = "the loss is minus the raw score of the label: nothing normalises it, and it has no floor"
Formula = Callable[[Scored], float]


@dataclass(frozen=True, slots=True)
class LossFormula:
    """The loss of classes equals a formula that is known to be wrong.

    From outputs and labels the cross entropy is computed, and what it becomes with softmax twice,
    with the log forgotten, or with nothing normalised; the one that the subject's loss equals, to
    five digits, tells what it does, if it equals it as well without any one of the samples: at a
    start all of them are near to guessing evenly, and some number there is another's by chance.
    None of them is silence. A softmax over another axis than the classes is a fault; a mean that
    divides by padding, or by the classes as well, a warning. A sum over places is a note; a warning
    where one step of the subject's makes its loss on the same batch rise, and would not if it were
    divided by the places. A start far above the entropy of
    guessing evenly (`high` times), in evaluation and in training, where batch norm that has not
    learned its statistics yet has the batch's, is a note; from `absurd` times on, scores of a
    wrong scale are a warning, at the first of three layers or more that each make what they are
    given larger.

    Sick: `F.cross_entropy(model(x).softmax(-1), y)`; `F.nll_loss(model(x).softmax(-1), y)`.
    Healthy: `F.cross_entropy(model(x), y)`; `F.nll_loss(model(x).log_softmax(-1), y)`.
    """

    alike: float = 1e-5
    high: float = 3.0
    absurd: float = 10.0

    code: ClassVar[str] = "WIR010"
    rule: ClassVar[str] = "loss-formula"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Labels of classes, an output that scores them, and a loss."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        if not any(True for _ in scored(experiment)):
            return "no output scores the classes of a key that is known to hold labels"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        loss = float(experiment.evaluated.ran.outputs[LOSS])
        for each in scored(experiment):
            right = each.picked(each.scores.log_softmax(1))
            if self._is(loss, right) and not each.are_probabilities:
                if _starts(experiment, loss) > self.high * math.log(each.classes):
                    yield self._high(loss, each, growing(experiment))
                return
            sound, apart = _sound(each, right)
            for words, formula in _wrong(each):
                value = formula(each)
                if not self._is(loss, value) or self._is(sound, value, apart):
                    continue
                if self._holds(experiment, each, formula):
                    yield self._said(each, words, loss, right)
                    return
            if (times := self._multiple(experiment, loss, right, each)) is not None:
                yield self._scaled(loss, right, each, *times)
                return

    def _is(self, one: float, two: float, times: float = 1.0) -> bool:
        return abs(one - two) <= times * self.alike * max(abs(one), abs(two), 1e-3)

    def _holds(self, experiment: Experiment, each: Scored, formula: Formula) -> bool:
        """Whether the loss without any one of the samples, where it can be had, is that as well."""
        for left in range(experiment.size) if experiment.size > 1 else ():
            rows = [row for row in range(experiment.size) if row != left]
            fewer = experiment.of_batch(take(experiment.batch, rows, experiment.layout))
            try:
                loss = float(fewer.evaluated.ran.outputs[LOSS])
                found = [formula(one) for one in scored(fewer) if one.stands_for(each)]
            except (ExperimentError, KeyError):
                continue
            if found and math.isfinite(loss) and not any(self._is(loss, one) for one in found):
                return False
        return True

    def _multiple(
        self, experiment: Experiment, loss: float, right: float, each: Scored
    ) -> tuple[str, Verdict] | None:
        """What the cross entropy is multiplied by, and how bad that is."""
        places, counted = len(each.keep), len(each.labels)
        sizes = {n: f"summed over {n} entries of an axis" for n in each.whole.shape[:-1] if n > 1}
        for times, words in (sizes | {counted: f"summed over {counted} places"}).items():
            if times > 1 and self._is(loss, right * times):
                rises = _overshoots(experiment, times)
                more = ", and one step on this batch makes it rise" if rises else ""
                verdict = Verdict.WARN if rises else Verdict.NOTE
                return f"{words}: its gradient grows with the batch{more}", verdict
        if self._is(loss, right / each.classes):
            return f"divided by the {each.classes} classes as well as by the places", Verdict.WARN
        if counted < places and self._is(loss, right * counted / places):
            ignored = places - counted
            return f"divided by {places} places, of which {ignored} are ignored", Verdict.WARN
        visible = _visible(experiment, each)
        if visible is not None and self._is(loss, *_over_all(each, visible)):
            hidden = places - int(visible.sum())
            return f"divided by {places} places, of which {hidden} are padding", Verdict.WARN
        return None

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

    def _high(self, loss: float, each: Scored, grown: Growth | None) -> Finding:
        even = math.log(each.classes)
        absurd = loss > self.absurd * even
        told = f", and {grown.words}" if grown is not None and absurd else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if absurd else Verdict.NOTE,
            message=f"the loss starts at {loss:.3g}, {loss / even:.1f} times what guessing evenly "
            f"over {each.classes} classes gives{told}.",
            fix="Nothing, if the model was trained on something else; else draw smaller weights "
            f"for {'these layers' if told else 'what gives the scores'}.",
            site=grown.site if grown is not None and absurd else "<loss>",
            phase="forward",
            evidence=(Evidence("loss", loss, self.high * even),),
        )

    def _scaled(
        self, loss: float, right: float, each: Scored, words: str, verdict: Verdict
    ) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"the loss is {words} (`{each.output}` against `{each.labels_key}`).",
            fix="Divide by the number of places that are scored; leave it only where the learning "
            "rate is meant for this scale.",
            site="<loss>",
            phase="forward",
            evidence=(
                Evidence("loss", loss),
                Evidence("cross entropy, a mean over all that have labels", right),
            ),
        )


def _overshoots(experiment: Experiment, times: int) -> bool:
    """Whether a step on a whole batch makes its loss rise, and not where the loss is divided.

    times: what it is a sum over, of the samples that are experimented with.
    """
    subject, batch = experiment.subject, first_batch(experiment.subject)
    if subject.train_step is not None or not experiment.size:
        return False
    share = (sample_count(batch, experiment.layout) or experiment.size) / experiment.size

    def divided(model: nn.Module, batch: Batch) -> Tensor:
        return subject.loss(model, batch) / (times * share)

    before, after = (loss_after(subject, batch, steps) for steps in (0, 1))
    part = replace(subject, loss=divided)
    fell = loss_after(part, batch, 1) < loss_after(part, batch, 0)
    return before > 0 and not after <= before and fell


def _visible(experiment: Experiment, each: Scored) -> Tensor | None:
    """The places that have a label and that no mask of the labels' shape hides."""
    shape = tuple(experiment.tensors[each.labels_key].shape)
    masks = [m.keep for m in experiment.masks if tuple(m.keep.shape) == shape]
    if not masks or len(each.keep) != masks[0].numel():
        return None
    seen = masks[0].flatten() & each.keep
    return seen if bool(seen.any()) and not bool(seen.all()) else None


def _over_all(each: Scored, visible: Tensor) -> tuple[float]:
    """The sum over what is visible, divided by all places."""
    among = visible[each.keep]
    picked = -each.scores.log_softmax(1).gather(1, each.labels[:, None])[among, 0]
    return (float(picked.sum()) / len(each.keep),)


def _starts(experiment: Experiment, evaluated: float) -> float:
    """The loss at the start, in the mode in which it is smaller."""
    trained = experiment.trained.ran.outputs.get(LOSS)
    return evaluated if trained is None else min(evaluated, float(trained))


def _sound(each: Scored, right: float) -> tuple[float, float]:
    """The cross entropy of what the output means, and by how many times the noise others differ.

    Outputs that are the same whatever is asked give the same by a wrong formula, and prove nothing.
    """
    if not each.are_probabilities:
        return right, 100.0
    return each.picked(each.scores.clamp(min=torch.finfo(each.scores.dtype).tiny).log()), 10.0


def _wrong(each: Scored) -> Iterator[tuple[str, Formula]]:
    """What the loss would be by each wrong formula."""
    if each.are_probabilities:
        yield TWICE, lambda given: given.picked(given.scores.log_softmax(1))
        yield NO_LOG, lambda given: given.picked(given.scores)
        return
    yield TWICE, lambda given: given.picked(given.scores.softmax(1).log_softmax(1))
    yield NO_LOG, lambda given: given.picked(given.scores.softmax(1))
    yield RAW, lambda given: given.picked(given.scores)
    for axis in range(each.whole.ndim - 1):
        yield (
            f"softmax runs over axis {axis} of the scores, not over the {each.classes} classes",
            partial(_over, axis),
        )


def _over(axis: int, given: Scored) -> float:
    return given.picked(given.over(axis))
