"""IDX024: places were counted without the start token, and read the token before their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.reading.alive import alive, site_of
from probes.reading.too_early import TooEarly, too_early


@dataclass(frozen=True, slots=True)
class UncountedStart:
    """Places in a key do not count the token in front of all rows, and lie one too early.

    Where code reads a row of vectors at the numbers of a key, as they are, the ids of the first
    batches tell whether these are places of words to which a start token was not added. All must
    hold: some places hit the one id that every row starts with; none hits the last token of its
    row, though many hit the two before; the ids that stand after the places are of another kind
    than those of the rows, and so are they after the start token where it is hit, and not where it
    is not; the ids at the places themselves are like all others; and the model is shown what comes
    later, so that a place does not stand for what follows it. Places of which zero says that there
    is none, of markers, of the ends of words, and of starts that lie before spans whose ends are
    read as well, are healthy.

    Sick: `hidden[rows, place]` of `[CLS] + words`, where `place` is the number of a word.
    Healthy: `hidden[rows, place + 1]` there.
    """

    code: ClassVar[str] = "IDX024"
    rule: ClassVar[str] = "uncounted-start"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key."""
        for found in too_early(experiment):
            yield self._finding(experiment, found)

    def _finding(self, experiment: Experiment, found: TooEarly) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{found.key}` lies one token before what it is of: {found.hits} of its "
            f"{found.count} places hit id {found.start}, which every row of `{found.of}` starts "
            "with, none the last token of its row, and ids of a kind stand after the places, not "
            "at them.",
            fix="Add 1 to the places for the start token that was put before the words.",
            site=site_of(experiment, alive(experiment), found.pick.order),
            op=found.pick.op,
            phase="forward",
            source=found.pick.line,
            evidence=(
                Evidence("places that hit the start token", found.hits, 0, f"of {found.count}"),
                Evidence("places that hit the last token of a row", 0),
                Evidence("places that hit one of the two before", found.near),
                Evidence("ids after a hit that are of the kind", found.alike, None),
                Evidence("share of the kind where the start is not hit", found.usual),
            ),
        )
