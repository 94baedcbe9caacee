"""IDX016: what is known beforehand of a place is read one place late."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.reading.late import Late, late


@dataclass(frozen=True, slots=True)
class LateCovariate:
    """Numbers beside what is to be forecast are shifted along with it, and the last are unread.

    A forecaster may not read what it is to give, and so that is shifted by one place; what is known
    beforehand, as a price or a holiday, is not to be. One place of a key is changed at a time: the
    outputs, scored at their own places, move from the next one on, and nothing moves with the last.
    It is asked whether the place's own numbers tell of the labels what those before do not: a
    linear fit is better by `gain` of the variance, on samples left out, and not with those of
    another sample. What was observed, as weather or an action that answers to what it saw, is
    healthy so, and no experiment tells it from what is known: it is a warning where the key is
    called `known`, `future`, `calendar` or the like, and else a note.

    Sick: `rnn(F.pad(torch.cat([sales, known], -1)[:, :-1], (0, 0, 1, 0)))`.
    Healthy: `rnn(torch.cat([F.pad(sales[:, :-1], (0, 0, 1, 0)), known], -1))`.
    """

    gain: float = 0.1

    code: ClassVar[str] = "IDX016"
    rule: ClassVar[str] = "late-covariate"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss and outputs."""
        if LOSS not in experiment.evaluated.ran.outputs:
            return "the loss could not be had: `Subject.loss` raises"
        return None if experiment.outputs else "the subject gives no outputs by place"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a key."""
        said = set[str]()
        for each in late(experiment):
            gained = each.told - max(each.without, each.by_chance)
            if gained >= self.gain and each.key not in said:
                said.add(each.key)
                yield self._finding(each, gained)

    def _finding(self, each: Late, gained: float) -> Finding:
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if each.is_known else Verdict.NOTE,
            message=f"`{each.output}` at a place is scored against `{each.labels}` there, and has "
            f"read `{each.key}` up to the place before: it was shifted along with `{each.labels}`, "
            "its last place is never read, and its own place tells what those before do not "
            f"({gained:.2f} of the variance).",
            fix=f"If `{each.key}` is known beforehand, shift `{each.labels}` alone, and join "
            f"`{each.key}` as it is.",
            site=each.site,
            phase="forward",
            evidence=(
                Evidence("variance told by the places before", each.without),
                Evidence("and by the own place", each.told),
                Evidence("and by that of another sample", each.by_chance),
            ),
        )
        line = f"reads=(Reads({each.output!r}, {each.key!r}, 'causal'),)"
        return resting_on(finding, [line])
