"""FIT001: the model has memorised the samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overfit.curves import Curves
from overfit.quiet import Quiet
from overfit.rules.lacking import lacks_course
from probes.finding import Evidence, Finding, Verdict

COUNTED = " (no metric is given: counted from what the loss is handed)"


@dataclass(frozen=True, slots=True)
class Memorised:
    """The model can learn: it has the samples of the suite by heart.

    Where a head counts, every head has all of it right in eval mode at the last evaluation, or
    as much as can be told from the gold prefix where samples begin alike; and no part of the loss
    that nobody counts scores labels, stands above zero and gives no parameter a gradient. Heads
    that were read from the calls of torch's losses may lack `heads_left` where the loss is as low
    as below, and anything where no more than `loss_gone` of it is left: they count what a mask
    leaves out, too.
    Where the loss went below zero, as that of a density does, it has no least, and a share of it
    says nothing: then each sample's own label must be likelier than others', and heads may lack
    `heads_chosen` in the end, where of several likely answers they count one.
    Where none counts, the median loss of the last pass is at most `loss_left` of what there was
    to learn: of where it began, or of what the mean target, one output for all or the labels of
    other samples give if that is lower, above the least that the labels and the loss's own form
    allow (contrastive losses of unit vectors stop above zero); or, where a part of the loss reads
    no label, as a KL against a prior, every other part is at most that of its start. Where
    what is to be learned is drawn in every call, as a denoiser's noise and times are, it is the
    loss of as many steps that draw the same each time, and the input has to count (by `read` of
    the loss). That says less: give `Subject.metrics`.

    Sick: not a sickness, but a note; a model that cannot do this will not learn from more data.

        whynan overfit train.py:subject --sizes 5     # note FIT001 memorised

    Healthy: the same subject with its input multiplied by zero; FIT002 or FIT004 speaks instead.
    """

    loss_left: float = 0.05
    heads_left: float = 0.05
    loss_gone: float = 1e-3
    heads_chosen: float = 0.1
    read: float = 1e-4

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT001"
    rule: ClassVar[str] = "memorised"

    def lacks(self, curves: Curves) -> str | None:
        """A course of the loss, and something that says what remembered would be."""
        if (why := lacks_course(curves)) is not None:
            return why
        told = curves.apart is not None and curves.apart.told
        if not curves.heads and not curves.start > 0 and not told:
            return (
                f"the loss began at {curves.start:.3g}, so a share of it says nothing, and "
                "nothing is counted: give `Subject.metrics`"
            )
        return None

    def holds(self, curves: Curves) -> bool:
        """Whether the samples are memorised."""
        if curves.ended in ("refused", "died") or curves.silent:
            return False
        if curves.heads and not curves.derived:
            return curves.complete or (curves.ended == "steps" and self._likeliest(curves))
        known = all(head.last >= 1 - self.heads_left for head in curves.heads.values())
        low = (curves.start > 0 and curves.left <= self.loss_left) or self._parts_low(curves)
        gone = curves.start > 0 and curves.left <= self.loss_gone
        if self.drawn(curves) is not None:
            return True
        if curves.endless and curves.apart is not None:
            return curves.complete or self._likeliest(curves)
        return curves.complete or (known and low) or gone

    def drawn(self, curves: Curves) -> Quiet | None:
        """What it comes to with the same draws each time, where it draws what is to be learned."""
        look = curves.look
        found = None if look is None else look.trials.same_draws
        if look is None or found is None or found.right is not None or not curves.start > 0:
            return None
        read = look.reading is None or look.reading > self.read
        low = found.loss - curves.least <= self.loss_left * (curves.unread - curves.least)
        return found if low and read else None

    def asks(self, curves: Curves, last: bool) -> bool:
        """Whether it hangs on how far the samples are told apart. last: no more steps come."""
        if curves.complete or not curves.losses:
            return False
        if curves.heads and not curves.derived:
            return last and self._nearly(curves) and curves.endless
        return curves.endless or (
            not curves.heads
            and not any(each.exact and each.loss is not None for each in curves.floors)
            and self.holds(curves)
        )

    def _likeliest(self, curves: Curves) -> bool:
        """Whether, to a loss without a least, each sample's own label is the likeliest."""
        apart = curves.apart
        return self._nearly(curves) and curves.endless and apart is not None and apart.told

    def _nearly(self, curves: Curves) -> bool:
        return all(head.last >= 1 - self.heads_chosen for head in curves.heads.values())

    def _parts_low(self, curves: Curves) -> bool:
        """Whether all parts but those that read no label are low, and the loss holds no more."""
        look = curves.look
        if look is None or look.evaluated is None:
            return False
        parts = curves.parts or look.terms
        learning = {name: each for name, each in parts.items() if name not in look.regularisers}
        if not 0 < len(learning) < len(parts):
            return False
        told = sum(values[-1] for values in parts.values())
        return look.evaluated <= told + self.loss_left * curves.start and all(
            values[0] > 0 and values[-1] <= self.loss_left * values[0]
            for values in learning.values()
        )

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One note where the samples are memorised."""
        if not self.holds(curves):
            return
        last = curves.steps[-1] + 1
        right = f"right{COUNTED if curves.derived else ''}"
        how, drawn = curves.told or _fell(curves), self.drawn(curves)
        if drawn is not None:
            how = (
                f"with the same draws in every pass, the loss fell to {drawn.loss:.4g} from "
                f"{curves.start:.4g} in {drawn.steps} steps; with others each time to "
                f"{curves.end:.4g}"
            )
        if curves.heads and not curves.complete and curves.apart is not None:
            how += f", and {_fell(curves)}: what is counted as wrong is another likely answer"
        if curves.heads and not curves.perfect and curves.complete:
            how += ", all that their prefixes allow"
        if curves.formed is not None and curves.formed.least > curves.end / 2:
            how += f", and {curves.formed.least:.4g} is the least that any outputs give"
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE,
            message=f"{curves.suite} memorised within {last} steps (seed {curves.seed}): {how}.",
            fix="Nothing to mend here; go on with more data.",
            step=curves.steps[-1],
            evidence=(
                *(Evidence(f"`{name}` {right}", head.told) for name, head in curves.heads.items()),
                Evidence("loss at the start", curves.start),
                Evidence("loss at the end", curves.end, anchor=curves.name),
            ),
        )


def _fell(curves: Curves) -> str:
    """How low the loss is."""
    apart = curves.apart
    if curves.endless and apart is not None:
        return (
            f"the loss, without a least, fell from {curves.start:.4g} to {curves.end:.4g}, and is "
            f"lower with its own label than with any other for {apart.right} of {apart.count}"
        )
    return f"the loss fell to {curves.end / curves.start:.1%} of its start"
