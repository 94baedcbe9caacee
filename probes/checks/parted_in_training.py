"""IDX011: in training mode, inputs are scored against other samples' labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.reading.indexing import Indexing, reordering
from probes.scoring.meeting import ROUNDING, Meeting
from probes.seeding import seed_everything
from probes.stepping.aim import minimised


@dataclass(frozen=True, slots=True)
class PartedInTraining:
    """A training step shuffles the inputs of a batch and leaves their labels where they were.

    Augmentation that draws an order of the samples runs in training mode alone, where the loss is
    never the same twice. Of a few samples the input is changed, then the label, then both, from
    one random state: what both do together beyond what each does alone shows whether the input is
    scored against its own label, or others'. A mixture, as mixup makes it, holds its own as well.
    Where evaluation mode does the same, that is said, and no order is drawn.

    Sick: `x = x[torch.randperm(len(x))]`, and `y` as it was.
    Healthy: `order = torch.randperm(len(x)); x, y = x[order], y[order]`.
    """

    tried: int = 4  # samples, in each of so many draws
    draws: int = 3
    least: float = 0.4  # of those tried; by chance some keep their own label

    code: ClassVar[str] = "IDX011"
    rule: ClassVar[str] = "parted-in-training"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Samples, labels, and a loss that draws numbers in training mode."""
        if experiment.size < 3:
            return "the batch cannot be cut into three samples or more"
        if not experiment.targets:
            return "no key is known to hold labels: declare it by `Layout(labels=(Labels(...),))`"
        return None if _draws(experiment) else "the loss draws no numbers in training mode"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        tried = min(self.tried, experiment.size)
        apart: list[tuple[int, float, float, float]] = []
        for draw in range(self.draws):
            meeting = Meeting(experiment, drawn=draw)
            apart += self._apart(experiment, meeting, tried)
            if len(apart) < self.least * tried * draw:
                return  # no order that is drawn comes near so many
        if len(apart) >= self.least * tried * self.draws:
            still = [*self._apart(experiment, Meeting(experiment), tried)]
            alone = len(still) < self.least * tried
            yield self._finding(experiment, meeting, apart, tried * self.draws, alone)

    def _apart(
        self, experiment: Experiment, meeting: Meeting, tried: int
    ) -> Iterator[tuple[int, float, float, float]]:
        """Sample, its meeting with its own label and with all others', and what is rounding."""
        limit = max(ROUNDING * abs(meeting.base), 10 * experiment.trained.noise)
        for i in range(tried):
            own = meeting.of([i], [i])
            if own <= limit:
                others = meeting.of([i], set(range(experiment.size)) - {i})
                if others > 10 * limit:
                    yield i, own, others, limit

    def _finding(
        self,
        experiment: Experiment,
        meeting: Meeting,
        apart: list[tuple[int, float, float, float]],
        tried: int,
        alone: bool,
    ) -> Finding:
        """alone: in evaluation mode each is scored against its own."""
        key, label = next(iter(meeting.inputs)), next(iter(meeting.labels))
        first, own, others, limit = apart[0]
        indexing = Indexing(count())
        experiment.trained.run(experiment.batch, under=[indexing])
        pick = reordering(indexing.picks, experiment.size)
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"{'in training mode ' * alone}`{key}` is scored against other samples' "
            f"`{label}`: {len(apart)} times of {tried} it meets not its own label but others', "
            + (
                "by an order that is drawn anew in every step."
                if alone
                else "in training mode and in evaluation mode alike."
            ),
            fix="Shuffle inputs and labels by one and the same order, or neither."
            if alone
            else "Put what the model gives back into the order of the batch.",
            site=LOSS,
            op=None if pick is None else pick.op,
            phase="forward",
            source=None if pick is None else pick.line,
            samples=tuple(sorted({each[0] for each in apart})),
            where={"sample": first},
            evidence=(
                Evidence("effect of input and own label together", own, limit),
                Evidence("effect of input and others' labels together", others),
                Evidence("times scored against others", len(apart), self.least * tried),
            ),
        )
        return resting_on(finding, experiment.samples_guessed)


def _draws(experiment: Experiment) -> bool:
    """Whether the loss of a training step hangs on the random state."""
    subject = experiment.subject
    if subject.train_step is not None:
        one, two = (minimised(subject, experiment.batch, seed) for seed in (0, 1))
        return one != two
    trained = experiment.trained
    again = trained.run(experiment.batch, before=lambda: seed_everything(987_654_321))
    return bool(trained.against(again).outputs)
