"""LBL014: labels that are missing are scored, since nobody reads which of them are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.scoring.unasked_mask import Unasked, known, unasked


@dataclass(frozen=True, slots=True)
class UnaskedMask:
    """Flags say which labels are known, nobody reads them, and the loss scores those that are not.

    Labels are missing where they are one and the same wherever a key of two values is one of them,
    and hardly ever where it is the other. That may be how things are, as nothing is paid where
    nothing is sold; so it is told only beside other labels of which the same is so, and which the
    loss does mask by flags of their own, that are not the same ones by another name. Where the
    labels are masked by those of the others in place of their own, it is said. What the loss
    masks by other flags, at which the labels are filler too, is well.

    Sick: `(age_error * batch["sex_known"]).sum()`, while nobody reads `age_known`.
    Healthy: `(age_error * batch["age_known"]).sum()`.
    """

    code: ClassVar[str] = "LBL014"
    rule: ClassVar[str] = "unasked-mask"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Two kinds of labels, and flags that say where each is known."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        if len({each.key for each in known(experiment)}) < 2:
            return "no keys of two values say where labels are known and where they are filler"
        if not experiment.minimises_loss:
            return "the step minimises other losses than `Subject.loss`"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a key of flags."""
        for each in unasked(experiment):
            yield self._finding(each)

    def _finding(self, found: Unasked) -> Finding:
        known, sister, key = found.known, found.sister, found.known.key
        by = (
            f"they are masked by `{found.instead}`, as `{sister.labels}` is, which drops known ones"
            if found.instead is not None
            else f"`{sister.labels}` is masked by `{sister.key}`"
        )
        wrong = f"`{found.instead}`" if found.instead is not None else "nothing"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"nobody reads `{key}`, which says where `{known.labels}` is known: where it "
            f"is {known.value:g}, `{known.labels}` is {known.filler:g} at all {known.places} places"
            f" of the first batches, and the loss scores {found.scored} of {found.places} of them "
            f"in this one; {by}.",
            fix=f"Weigh the loss of `{known.labels}` by `{key}`, and not by {wrong}.",
            site="<loss>",
            phase="forward",
            source=found.source,
            evidence=(Evidence("places of filler that are scored", found.scored, 0),),
        )
