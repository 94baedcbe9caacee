"""WIR056: `q[:, action]` gives every sample the columns of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.reading.for_everyone import ForEveryone, for_everyone


@dataclass(frozen=True, slots=True)
class EveryonesColumns:
    """Of N rows, one a sample, the columns of N indices are taken, where one of each was meant.

    `q[:, action]` is N by N: each row holds the columns that the others asked for, and what it then
    meets, one number a sample, broadcasts. Rows and index are known to be of samples since both
    turn with the batch. It is told where the loss stays the same when every sample is given the row
    of its neighbour, and moves when the columns are exchanged: so the columns belong to samples,
    and no row to any. Scores of all pairs that are meant have a diagonal, a mask or classes that
    tell which row is whose; negatives that a batch shares belong to nobody.

    Sick: `(model(obs)[:, action] - returns).square().mean()`.
    Healthy: `model(obs).gather(1, action[:, None]).squeeze(1)` in place of `[:, action]`.
    """

    code: ClassVar[str] = "WIR056"
    rule: ClassVar[str] = "columns-of-every-sample"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Three samples, and a loss."""
        if experiment.size < 3:
            return "the batch cannot be cut into three samples or more"
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding, at the first such place."""
        found = next(for_everyone(experiment), None)
        if found is not None:
            finding = self._finding(found, experiment.size)
            yield resting_on(finding, experiment.samples_guessed if found.key is None else ())

    def _finding(self, found: ForEveryone, n: int) -> Finding:
        pick = found.pick
        by = "one index a sample" if found.key is None else f"`{found.key}`, one a sample,"
        line = f" at {pick.line}" if pick.line else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{pick.op}`{line} takes of every sample's row the columns of all {n}: {by} "
            f"is put at axis {pick.axis} of {tuple(pick.source.shape)}, which gives "
            f"{tuple(pick.out.shape)}; the loss is the same when each sample is given another's "
            "row, so no input is scored against its own label.",
            fix="Take one column of each row: `x.gather(1, index[:, None]).squeeze(1)`, or "
            "`x[torch.arange(len(x)), index]`.",
            site="<loss>",
            op=pick.op,
            phase="forward",
            source=pick.line,
            evidence=(
                Evidence("loss moved by giving each sample another's row", found.rows, found.limit),
                Evidence("loss moved by exchanging the columns", found.columns, found.limit),
            ),
        )
