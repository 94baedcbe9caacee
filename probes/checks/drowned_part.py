"""WIR015: one term of the loss drowns another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.masking.longer import Longer, longer
from probes.scoring.collapsed import GONE, Collapse, collapsed
from probes.scoring.outgrown import Outgrown, outgrown
from probes.scoring.terms import FAR, Terms, grown, parts, terms


@dataclass(frozen=True, slots=True)
class DrownedPart:
    """Two terms of the loss that are scored against labels differ widely in their gradients.

    The gradient of each of `Subject.parts` is taken with respect to the parameters that all of
    them reach; from `far` times on, the shared layers follow the larger one alone. It is a
    warning where both terms move with what no output reads, such as labels, and a few dozen of the
    subject's own steps leave it so; a fault where more padding makes the smaller one smaller still,
    which is what it is divided by; a note where the larger one comes down with the first steps, as
    what a head begins with does, where one is not scored, as a penalty or a divergence, and where
    the loss itself weighs the smaller less.
    With every sample twice in the batch, a sum doubles and a mean stays: a larger term that is a
    sum beside a smaller one that is a mean is a warning, whatever they are, where they are so far
    apart in a whole batch; so much is also told of a loss that is seen to be a sum, of which nobody
    has named the terms. A note is all where `train_step` minimises something else than `loss`.
    A penalty that is a sum over each sample's own numbers beside an error that is a mean over them,
    of `far` or more, is a warning where some hundred steps leave neither anything of it, nor of
    what tells one sample's output from another's, and where the same steps with the penalty divided
    by as many numbers do, and bring the error down.

    Sick: the mean over 5 answers beside a mean that is divided by all 5000 outputs; a divergence
    that is summed over each sample beside a mean over its pixels.
    Healthy: each term a mean over its own answers; a divergence that begins near zero; a mean that
    is large before the first steps.
    """

    far: float = FAR

    code: ClassVar[str] = "WIR015"
    rule: ClassVar[str] = "drowned-part"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Two parts."""
        try:
            few = len(parts(experiment)) < 2
        except ExperimentError as error:
            return f"no two terms are known: {error}"
        if few:
            return "`Subject.parts` does not name two terms of the loss, nor is it seen to be a sum"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding, of the smallest term beside the largest."""
        with suppress(ExperimentError):
            if (lost := collapsed(experiment, self.far)) is not None:
                yield self._collapse(lost)
                return
        found = terms(experiment, self.far)
        what = "The norm of the gradient that each term of the loss gives to what all of them reach"
        experiment.keep(self.rule, found.norms, ("part",), {"part": found.names}, what=what)
        named = len(experiment.subject.parts) > 1
        if not ((found.times >= self.far and named) or found.summed):
            return
        padded = _padded(experiment, found) if found.wanted else None
        finding = self._finding(found, padded)
        if finding.verdict is Verdict.WARN and experiment.minimises_loss and not found.summed:
            with suppress(ExperimentError):
                finding = _once_begun(finding, found, outgrown(experiment, found, self.far))
        if not experiment.minimises_loss:  # the terms may be minimised one by one
            finding = replace(finding, verdict=Verdict.NOTE)
        guessed = padded[0].each.guessed if padded else None
        yield resting_on(finding, [guessed] if guessed else [])

    def _finding(self, found: Terms, padded: tuple[Longer, float] | None) -> Finding:
        small, large = found.small, found.large
        told, evidence = "", [Evidence("times as large", found.times, self.far)]
        times = found.times * (found.more if found.summed else 1)
        verdict = Verdict.WARN if found.wanted or found.summed else Verdict.NOTE
        if found.summed:
            told = f" `{large}` is a sum over the samples, `{small}` a mean."
            evidence = [Evidence("times as large in a whole batch", times, self.far)]
        if padded is not None:
            each, times = padded
            verdict = Verdict.FAIL
            told += (
                f" `{small}` is divided by padding too: with {each.by} more positions under "
                f"`{each.each.mask.key}` it is {times:.3g} times what it was."
            )
            evidence.append(Evidence(f"`{small}` with more padding", times, 1.0))
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"`{large}` drowns `{small}`: its gradient on the {len(found.shared)} "
            f"parameters that they share is {times:.3g} times as large.{told}",
            fix=_fix(found),
            site="<loss>",
            phase="backward",
            evidence=(
                Evidence(f"gradient of `{large}`", float(found.norms.max())),
                Evidence(f"gradient of `{small}`", float(found.norms.min())),
                *evidence,
            ),
        )

    def _collapse(self, lost: Collapse) -> Finding:
        one, two = f"`{lost.error.name}`", f"`{lost.penalty.name}`"
        told = "" if lost.spread is None else (
            f", and outputs differ from sample to sample by {lost.spread:.2g} of what they do"
        )  # fmt: skip
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{two} drowns {one}: it is a sum over {lost.summed} numbers of each sample, "
            f"the other a mean over {lost.numbers}, {lost.numbers} times too small beside it. After"
            f" {lost.steps} steps the sum is {lost.left:.2g} where it would be {lost.meant:.2g} if "
            f"both were in one unit{told}, and the error {lost.worse:.3g} where it would be "
            f"{lost.better:.3g}: the input is given up.",
            fix=f"Sum the error over each sample as well, or divide {two} by {lost.numbers}.",
            site="<loss>",
            phase="backward",
            source=lost.error.source,
            evidence=(
                Evidence("numbers of a sample in the mean", lost.numbers, self.far),
                Evidence(f"the sum after {lost.steps} steps", lost.left, GONE * lost.meant),
                Evidence(f"the mean after {lost.steps} steps", lost.worse),
                Evidence("the same, if both were in one unit", lost.better),
            ),
        )


def _once_begun(finding: Finding, found: Terms, left: Outgrown | None) -> Finding:
    """A note where the larger one comes down with the first steps."""
    if left is None:
        return finding
    what = f"times as large after {left.steps} steps"
    return replace(
        finding,
        verdict=Verdict.NOTE,
        message=f"the gradient of `{found.large}` begins {found.times:.3g} times as large as that "
        f"of `{found.small}`, on the {len(found.shared)} parameters that they share; after "
        f"{left.steps} steps it is {left.times:.3g} times as large.",
        fix="Nothing: what a term begins with is soon learned.",
        evidence=(*finding.evidence, Evidence(what, left.times)),
    )


def _fix(found: Terms) -> str:
    if found.summed:
        return f"Divide `{found.large}` by the number of samples, as `{found.small}` is."
    if found.wanted:
        return (
            f"Look by what `{found.small}` is divided: a mean over its own answers, and not over "
            "all outputs or places; else weigh the two."
        )
    return "Nothing, if the smaller one is a penalty, or weighed so on purpose."


def _padded(experiment: Experiment, found: Terms) -> tuple[Longer, float] | None:
    """The padding that makes the smaller term smaller, and by what it is multiplied."""
    for each in longer(experiment, 3):
        with suppress(ExperimentError):
            times = grown(experiment, found.small, each)
            if times is not None and times < 1:
                return each, times
    return None
