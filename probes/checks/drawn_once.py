"""STA015: a mask or noise that is drawn for the first batch and kept for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.states.attributes import written_at
from probes.states.drawn_once import Kept, kept_draws


@dataclass(frozen=True, slots=True)
class DrawnOnce:
    """What is drawn at random in the first pass of training is kept, and read in all later ones.

    A mask of dropout that is the same for all steps of a sequence is kept in an attribute, and is
    never drawn again: the units that it dropped once are dropped for good, and those of other
    samples with them. An attribute of zeros and one other number, or with an entry for each sample,
    is another from another random state of the first pass, is left alone by a second pass, of
    another batch from another state, and the loss reads it. What is drawn in `__init__`, as fixed
    projections, is meant to stay, and what each pass draws anew is silence.

    Sick: `if self.mask is None: self.mask = torch.bernoulli(keep)`.
    Healthy: `mask = torch.bernoulli(keep)` in every forward pass.
    """

    code: ClassVar[str] = "STA015"
    rule: ClassVar[str] = "drawn-once"
    family: ClassVar[Literal["check"]] = "check"
    slow: ClassVar[bool] = True

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding an attribute."""
        with suppress(ExperimentError):
            yield from (self._finding(experiment, each) for each in kept_draws(experiment))

    def _finding(self, experiment: Experiment, each: Kept) -> Finding:
        site = each.attribute.site
        what = (
            "noise for each sample"
            if each.dropped is None
            else f"a mask that drops {100 * each.dropped:.0f}%"
        )
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{site}` holds {what}, drawn at random in the first pass of training and "
            f"never again: a later batch reads it, and drawn anew it would move the loss by "
            f"{100 * each.share:.2g}%.",
            fix=f"Draw it in every pass in training mode, or forget `{site}` before each batch.",
            site=site,
            phase="forward",
            source=written_at(experiment.subject.model, each.attribute),
            evidence=(Evidence("what drawing it anew changes, of the loss", each.share),),
        )
