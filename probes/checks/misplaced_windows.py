"""IDX030: windows of places come back to other places, where they meet what they were made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.operators.windowed import Misplaced, misplaced


@dataclass(frozen=True, slots=True)
class MisplacedWindows:
    """Windows are cut by one order of axes and joined by another, beside their residual.

    Attention in windows of a grid takes axes apart, brings them into order, and joins them; on the
    way back the same is done in reverse. Where the order is left out on one of the two ways, what
    was made of a window lies in a run of places that follow one another, such as a row. Looked at
    are sums of a tensor and of what came of it: by gradients, which places each place reads. Told
    is where these are windows of one size that part all places, each read at as many places, a
    quarter of all reads no window that holds it, and either what is read or where it comes out is
    a run, but not both. Neighbourhoods that overlap, masks, shifts and mirrors are not judged.

    Sick: `x + windows.view(b, h // w, w_ // w, w, w, c).view(b, h, w_, c)`.
    Healthy: the same with `.permute(0, 1, 3, 2, 4, 5)` between the two.
    """

    code: ClassVar[str] = "IDX030"
    rule: ClassVar[str] = "misplaced-windows"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        if LOSS not in experiment.evaluated.ran.outputs:
            return "the loss could not be had: `Subject.loss` raises"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a line."""
        said: set[str | None] = set()
        for each in misplaced(experiment):
            if each.source not in said:
                said.add(each.source)
                yield self._finding(each)

    def _finding(self, each: Misplaced) -> Finding:
        grid = " x ".join(map(str, each.axes))
        reads = ", ".join(f"{first} to {last}" for first, last in each.reads)
        way = "come back" if each.comes_back else "are cut"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"windows of {each.size} places {way} by a `{each.op.removeprefix('aten.')}` "
            f"that leaves out the order of their axes: of {grid} places {each.place} is made of "
            f"places ({reads}), and added to itself at {each.added}; so {each.share:.0%} of the "
            "places read a window that does not hold them.",
            fix="Bring the axes into order by `permute` between the two views, as on the other "
            "way, so that each window comes back to where it was cut.",
            site=each.site,
            op=each.op,
            phase="forward",
            source=each.source,
            evidence=(Evidence("places that are not in what they read", each.share, 0),),
        )
