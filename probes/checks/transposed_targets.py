"""IDX019: a map of targets is the transpose of what its images show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.reading.transposed import Transposed, is_local, transposed


@dataclass(frozen=True, slots=True)
class TransposedTargets:
    """Targets are written at (x, y), and scored against what a map predicts at (row, column).

    Of a grid that is square nothing is out of range. Looked at are square maps of targets that the
    loss holds against a prediction, whether the batch has them or the loss makes them of boxes, and
    the places at which it takes a prediction. A linear fit to every other sample tells them by what
    images look like in their cell and around it; places on the diagonal are left out. Told is where
    the images at (row, column) tell next to nothing of the targets there, by `near`, those at
    (column, row) more, by `gain`, and the prediction at (row, column) moves with the pixels at
    (row, column), four times as far as that at (column, row): a model that turns its image, or
    sees all of it everywhere, is not judged.

    Sick: `targets[sample, x, y] = 1` for a prediction (sample, row, column).
    Healthy: `targets[sample, y, x] = 1`.
    """

    near: float = 0.1
    gain: float = 0.25

    code: ClassVar[str] = "IDX019"
    rule: ClassVar[str] = "transposed-targets"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        if LOSS not in experiment.evaluated.ran.outputs:
            return "the loss could not be had: `Subject.loss` raises"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding, of the first map."""
        for each in transposed(experiment):
            far = each.given <= self.near and each.turned >= each.given + self.gain
            if far and is_local(experiment, each):
                yield self._finding(each)
                return

    def _finding(self, each: Transposed) -> Finding:
        place = each.key.line or "a line that is not of the subject"
        taken = "the places at which the prediction is taken at"
        what = taken if each.key.name == "__getitem__" else f"the targets of `{each.key.name}` at"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"Rows and columns of {what} {place} are exchanged: what `{each.image}` looks "
            f"like at (row, column) tells {max(each.given, 0):.2f} of them on samples left out, "
            f"and at (column, row) {each.turned:.2f}, while the prediction at (row, column) is "
            "made of what lies there.",
            fix="Write and read them as `[sample, row, column]`, which is (y, x): look where the "
            "targets are made.",
            site=LOSS,
            phase="forward",
            source=each.key.line,
            evidence=(
                Evidence("share of the targets told by their own places", each.given, self.near),
                Evidence("share told by places with rows and columns exchanged", each.turned),
                Evidence("places that were asked for", each.count),
            ),
        )
