"""LBL017: the end of each row is left out of the loss together with the padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.scoring.answers import at_the_loss
from probes.scoring.unasked_ends import UnaskedEnd, unasked_ends


@dataclass(frozen=True, slots=True)
class UnlearnedEnd:
    """Rows end in an id that pads them too, and the loss leaves it out wherever it stands.

    Of a model that goes on with ids, each output being asked for the one after the last that it
    has read, by the loss's gradient. A mask keeps the id at the end of each row, and hides the same
    one after it; or lengths count it; or every row of every batch ends in it, and the longest in a
    single one, since that has no padding. The id before it is scored, and no output is asked for
    the end: it is never learned, so that what the model writes does not stop. Where the last id
    that is scored is one and the same, it is an end as well; and where as many are scored in each
    row, none is needed. What no mask keeps may be padding, and is a note unless the code calls the
    id an end; what the loss alone has, beside what the model is fed, is told only then.

    Sick: `labels = ids.masked_fill(ids == PAD, -100)` where `PAD = EOS`.
    Healthy: `labels = ids.masked_fill(attention_mask == 0, -100)`.
    """

    code: ClassVar[str] = "LBL017"
    rule: ClassVar[str] = "unlearned-end"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        for each in unasked_ends(experiment):
            yield self._finding(experiment, each)
            return

    def _told(self, each: UnaskedEnd) -> str:
        ends, blank = each.ends, f" in `{each.left_out}`" if each.left_out else ""
        if ends.end < 0:
            return (
                f"every row of `{each.key}` ends in {ends.end}, in each batch the longest one in "
                "a single one, so that what stood there is left out"
            )
        kept = "" if ends.kept is None else f", where `{ends.kept}` keeps it"
        return (
            f"`{each.key}` ends in {ends.end}{kept}, and is padded with {ends.end} as well, and "
            f"both are left out{blank}"
        )

    def _finding(self, experiment: Experiment, each: UnaskedEnd) -> Finding:
        ends = each.ends
        unsure = "" if each.sure else "If it is an end and not one more place of padding: l"
        by = "how long each row is" if ends.kept is None else f"`{ends.kept}`"
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if each.sure else Verdict.NOTE,
            message=f"no output is asked for the end of a row: {self._told(each)}, while the id "
            "before is scored; so the model never learns to stop.",
            fix=f"{unsure or 'L'}eave out what is padding by {by}, and not by its id: the end of "
            "each row is to be scored, once. Or pad with an id of its own.",
            site="<loss>" if each.left_out is None else "<data>",
            phase="forward" if each.left_out is None else "data",
            samples=tuple(ends.rows.tolist()),
            where={"sample": int(ends.rows[0]), "token": int(ends.places[0])},
            evidence=(
                Evidence("rows whose end is asked for", 0, each.rows),
                Evidence("rows that are scored up to the id before their end", each.rows),
            ),
        )
        if each.left_out is None:
            finding = at_the_loss(experiment, finding)
        return resting_on(finding, [ends.guessed] if ends.guessed else [])
