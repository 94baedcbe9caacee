"""MSK016: what is missing is looked for after something has written over what marks it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.masking.defeated import Defeated, defeated, marked_keys


@dataclass(frozen=True, slots=True)
class DefeatedMask:
    """A comparison is to leave marked labels out of the loss, and can no longer find any.

    Labels that hold -1, -100 or NaN where there is none are bounded, by `clamp`, `nan_to_num`,
    `where` or a write in place, before the mask is taken from them: it comes out the same
    everywhere, and what is missing is scored as the number that it was bounded to. Keys are
    followed through the operators of a loss; told is what settles a comparison that differs on the
    key as it came, at places of one mark. Then the loss must move where these places are bounded to
    another label, and where the comparison gives what it would have, gradients of what the model
    gives must be gone. Silent are marks that a mask of the key as it came leaves out, bounded
    indices, -1 and 1 made 0 and 1, and a line that finds marks elsewhere, as one for several
    losses does. Where the comparison stands in another function it is a warning.

    Sick: `y = y.clamp(min=0); measured = y >= 0`.
    Healthy: `measured = y >= 0; y = y.clamp(min=0)`.
    """

    least: int = 3  # places that one mark is on

    code: ClassVar[str] = "MSK016"
    rule: ClassVar[str] = "mask-defeated"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss, and a key with a number beyond all its others."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        if not marked_keys(experiment, self.least):
            return "no key of the batch holds a number beyond all others that may mark its places"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a key and line."""
        for each in defeated(experiment, self.least):
            yield self._finding(each)

    def _finding(self, each: Defeated) -> Finding:
        one, two = each.compared, each.bound
        by = f"`{two.op}`" + (f" at {two.source}" if two.source is not None else "")
        into = "other numbers" if each.filled is None else f"{each.filled:g}"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if each.together else Verdict.WARN,
            message=f"`{one.op}` finds nothing missing in `{each.key}`, since {by} has turned "
            f"{each.mark:g} into {into} before: {each.count} of {each.entries} entries are marked, "
            f"and are scored as {into}.",
            fix=f"Compare `{each.key}` as it comes, before `{two.op}`.",
            site=each.site,
            phase="forward",
            source=one.source,
            evidence=(
                Evidence("marked entries that are scored", each.count, 0),
                Evidence("share of the gradient that comes of them", each.share, 0),
                Evidence("loss", each.loss),
                Evidence("loss where the comparison is of the key as it came", each.without),
            ),
        )
