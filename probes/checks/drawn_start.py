"""STA019: a recurrence starts from numbers that are drawn anew each time, in evaluation as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.states.drawn_start import DrawnStart, drawn_starts


@dataclass(frozen=True, slots=True)
class DrawnStartState:
    """A recurrent layer starts from what is drawn, in evaluation mode, and is scored by labels.

    Nothing of the batch and no parameter is in its first state, so that two predictions of one
    sample differ, and the labels cannot tell why. With the same numbers in another order an output
    moves by more than `share` of its size, and so does what the loss makes of other labels. A state
    that is learned, encoded, or drawn around either is left alone, and so is one that is drawn
    while training alone, what reads nothing of the batch, as a generator does, and what reads it
    from several draws; where outputs hang on the random state for another reason, WIR006 says so.

    Sick: `self.lstm(x, (torch.randn(2, n, 32), torch.randn(2, n, 32)))`.
    Healthy: `self.lstm(x)`, which starts from zeros.
    """

    share: float = 1e-3

    code: ClassVar[str] = "STA019"
    rule: ClassVar[str] = "start-is-drawn"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss, and a recurrent layer of torch's own."""
        modules = experiment.subject.model.modules()
        if not any(isinstance(each, (nn.RNNBase, nn.RNNCellBase)) for each in modules):
            return "no recurrent module of torch's own"
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding for each line that draws."""
        if not experiment.is_random:
            return
        with suppress(ExperimentError):
            for each in drawn_starts(experiment):
                if each.moved.relative > self.share:
                    yield self._finding(each)

    def _finding(self, each: DrawnStart) -> Finding:
        at = f" at {each.source}" if each.source else ""
        moved = each.moved
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{each.site}` starts from what `{each.op}` draws{at}, in evaluation mode as "
            "well, and nothing of the batch or of a parameter is in it: with another draw "
            f"`{moved.site}`, which the loss compares with `{each.labels}`, moves by "
            f"{moved.largest:.3g}, so that two predictions of one sample differ.",
            fix=f"Start `{each.site}` from zeros, or from a state that is learned or encoded; draw "
            "one, if at all, where `self.training` is set.",
            site=each.site,
            op=each.op,
            phase="forward",
            source=each.source,
            where={"time": 0},
            evidence=(
                Evidence(f"difference of `{moved.site}` with another draw", moved.largest, 0.0),
                Evidence("as a share of its size", moved.relative, self.share),
            ),
        )
