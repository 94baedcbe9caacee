"""IDX017: a map is read at (y, x) of the points whose labels are to be told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.reading.sampled import Swapped, swapped


@dataclass(frozen=True, slots=True)
class SwappedCoordinates:
    """`grid_sample` is given (row, column), and takes the first for x: it reads elsewhere.

    Points are normalised to -1 to 1 along both axes, so that nothing is out of range. Where each
    point has a class, and nothing learned leads to the points, patches of the image tell which of
    both readings the labels go with: a linear fit to every other sample is asked about the rest.
    Told is where the points as they are tell no more than the commonest label, by `near`, and those
    with their coordinates exchanged are better by `gain`. Patches of seven pixels are all that is
    looked at: labels that hang on more of the image are not judged.

    Sick: `F.grid_sample(maps, points[:, None])` of points (row, column).
    Healthy: `F.grid_sample(maps, points.flip(-1)[:, None])`.
    """

    near: float = 0.1
    gain: float = 0.25

    code: ClassVar[str] = "IDX017"
    rule: ClassVar[str] = "swapped-coordinates"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        if LOSS not in experiment.evaluated.ran.outputs:
            return "the loss could not be had: `Subject.loss` raises"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        for each in swapped(experiment):
            if each.given <= each.most + self.near and each.turned >= each.given + self.gain:
                yield self._finding(each)
                return

    def _finding(self, each: Swapped) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`grid_sample` at {each.line or 'a line that is not of the subject'} is given "
            f"points as (row, column), and reads (x, y): what `{each.image}` looks like at its "
            f"points does not go with `{each.labels}` ({each.given:.2f} are told on samples left "
            f"out, {each.most:.2f} by the commonest), and does with their coordinates exchanged "
            f"({each.turned:.2f}).",
            fix="Give x, the column, first: `points.flip(-1)`.",
            site=each.site,
            op="aten.grid_sampler",
            phase="forward",
            source=each.line,
            evidence=(
                Evidence("labels told by the image at the points", each.given, each.most),
                Evidence("with coordinates exchanged", each.turned),
                Evidence("labels that were asked for", each.count),
            ),
        )
