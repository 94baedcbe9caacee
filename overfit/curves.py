"""What a suite left in its record, as the verdict rules read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, median

import numpy as np

from nan_watch.course import read_course
from overfit.apart import Apart
from overfit.bottom import Bottom
from overfit.ceilings import PREFIX, SOFT, Ceiling
from overfit.drive import Drive
from overfit.floors import Floor
from overfit.interventions import UNCHANGED
from overfit.look import Look
from overfit.noise import interval
from overfit.plan import Ending
from overfit.silent import Silent
from probes.finding import Finding, out_of
from probes.run import Run


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One head over the evaluations: at these steps, so many right out of so many."""

    steps: tuple[int, ...]
    hits: tuple[float, ...]
    counts: tuple[float, ...]

    @property
    def first(self) -> float:
        """The share that was right before the first step."""
        return self.hits[0] / self.counts[0]

    @property
    def last(self) -> float:
        """The share that was right at the last evaluation."""
        return self.hits[-1] / self.counts[-1]

    @property
    def told(self) -> str:
        """The last evaluation with its count and Wilson's interval."""
        return interval(self.hits[-1], self.counts[-1])

    def __str__(self) -> str:
        return out_of(self.hits[-1], self.counts[-1])


@dataclass(frozen=True, slots=True)
class Curves:
    """A suite's course.

    name: its part in the run folder, such as `overfit-5-seed0`.
    size, seed, budget: as asked; budget is the number of steps. unit: what size counts.
    steps, losses: (step,) the loss of every step, in training mode, NaN where it was not finite.
    heads: accuracies in eval mode, those that had anything to count.
    passes: steps that one pass over the samples takes.
    ended: how the suite ended; None where it was cut off.
    refused: the step that the watch refused. said: what was said as it ended before its time.
    source: the user's line that it ended at, where it is known.
    floors, ceilings: of its samples. unjudged: why there are none of some accuracy.
    derived: whether the heads were read from the calls of torch's losses.
    look: what was measured at the end, where it did not memorise. watched: what the watch and
    the checks found. samples: how each is called. others: suites of the same size with another
    seed; smaller: those of the same seed with fewer samples. tries: the interventions, each by
    what was changed. parts: part of the loss to its values at the evaluations. drive: what the
    optimizer did, where the suite ended by itself. apart: how far the samples are told apart by
    their labels, where the loss alone does not tell that they are memorised. clipped: what
    clipping left of the gradient in the median step; None where nothing was clipped. untried: why
    no intervention could be tried. silent: the parts that score labels and teach nothing, where
    all that the subject counts is right.
    """

    name: str
    size: int
    seed: int
    budget: int
    unit: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    heads: Mapping[str, Accuracy] = field(default_factory=dict)
    passes: int = 1
    ended: Ending | None = None
    refused: int | None = None
    said: str | None = None
    source: str | None = None
    floors: tuple[Floor, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()
    unjudged: tuple[str, ...] = ()
    derived: bool = False
    look: Look | None = None
    watched: tuple[Finding, ...] = ()
    samples: tuple[str, ...] = ()
    others: tuple[Curves, ...] = ()
    smaller: tuple[Curves, ...] = ()
    tries: Mapping[tuple[str, ...], Curves] = field(default_factory=dict)
    parts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    drive: Drive | None = None
    clipped: float | None = None
    apart: Apart | None = None
    untried: str | None = None
    silent: tuple[Silent, ...] = ()

    WINDOW = 5
    GONE = 0.01

    @property
    def control(self) -> Curves | None:
        """The run with nothing but its initial weights changed; None where it did not end."""
        found = self.tries.get((UNCHANGED,))
        return found if found is not None and found.ended in ("memorised", "steps") else None

    @property
    def suite(self) -> str:
        """How a message calls it."""
        unit = self.unit if self.size != 1 else {"samples": "sample", "batches": "batch"}[self.unit]
        return f"{self.size} {unit}"

    @property
    def start(self) -> float:
        """The mean loss of the first pass over the samples; NaN where there was none."""
        return fmean(self.losses[: self.passes]) if self.losses else math.nan

    @property
    def end(self) -> float:
        """The median of the last passes' mean losses; NaN where the last step's was not finite."""
        last, n = self.losses[-1], min(self.passes, len(self.losses))
        if last - last != 0:
            return last
        ends = range(len(self.losses), n - 1, -n)[: self.WINDOW]
        return median(fmean(self.losses[end - n : end]) for end in ends)

    @property
    def least(self) -> float:
        """The loss that no model can pass and that is no fault of the labels; 0 where unknown."""
        formed = self.formed
        return max(self.bottom(SOFT, PREFIX), formed.least if formed is not None else 0.0)

    @property
    def formed(self) -> Bottom | None:
        """Where a loss of which nothing is counted ends by its form; None where unknown."""
        return self.look.bottom if self.look is not None and not self.heads else None

    def bottom(self, *names: str) -> float:
        """The loss that the ceilings of these names leave, where they speak of the whole loss."""
        own = (each for each in self.ceilings if each.exact and each.name in names)
        return max((each.loss for each in own if each.loss is not None), default=0.0)

    @property
    def unread(self) -> float:
        """The loss before anything was read of the input: the start's, or a floor's if lower.

        So is what the labels of other samples give.
        """
        known = [each.loss for each in self.floors if each.exact and each.loss is not None]
        known += [self.formed.alike] if self.formed is not None else []
        known += [self.apart.others] if self.apart is not None else []
        return min([self.start, *known]) if self.start == self.start else math.nan

    @property
    def left(self) -> float:
        """The share of the loss that is left, of what there was to learn; NaN of nothing."""
        room = self.unread - self.least
        return (self.end - self.least) / room if room > 0 else math.nan

    @property
    def endless(self) -> bool:
        """Whether the loss went below zero, as that of a density does, which has no least."""
        return bool(self.losses) and self.end < 0

    @property
    def learning(self) -> dict[str, tuple[float, ...]]:
        """The parts of the loss that read labels, as far as it is known which do not."""
        others = self.look.regularisers if self.look is not None else ()
        return {name: values for name, values in self.parts.items() if name not in others}

    @property
    def gone(self) -> bool:
        """Whether next to nothing is left of the loss, of what there was to learn.

        Of where it began, where the labels leave nothing to be learned from the input, as those
        of one class do.
        """
        if self.endless and self.apart is not None:
            return self.apart.told
        if self.start > 0 and self.unread <= self.least < self.start:
            return self.end - self.least <= self.GONE * (self.start - self.least)
        return self.start > 0 and self.left <= self.GONE

    @property
    def complete(self) -> bool:
        """Whether every head is perfect, or as good as the samples' own prefixes allow."""
        best = {c.head: c.accuracy for c in self.ceilings if c.name == PREFIX and c.accuracy}
        return bool(self.heads) and all(
            head.hits[-1] >= best.get(name, 1.0) * head.counts[-1] - 1e-6
            for name, head in self.heads.items()
        )

    @property
    def perfect(self) -> bool:
        """Whether every head had all of it right at the last evaluation."""
        return bool(self.heads) and all(
            head.hits[-1] >= head.counts[-1] for head in self.heads.values()
        )

    @property
    def told(self) -> str:
        """The heads at the last evaluation, worst first, in words."""
        worst_first = sorted(self.heads.items(), key=lambda item: item[1].last)
        return ", ".join(f"`{name}` {head}" for name, head in worst_first)


def read_curves(run: Run) -> Curves:
    """The curves of a suite's part of a run folder, whole or cut off."""
    asked = run.facts["settings"]
    steps, losses = _series(run, "loss", "value", "<loss>")
    return Curves(
        name=run.folder.name,
        size=asked["size"],
        seed=asked["seed"],
        budget=asked["steps"],
        unit=asked.get("unit", "samples"),
        steps=steps,
        losses=losses,
        heads=_heads(run),
        passes=asked.get("batches", 1),
        ended=asked.get("ended"),
        refused=asked.get("refused"),
        said=asked.get("said"),
        source=asked.get("source"),
        floors=tuple(map(Floor.from_json, asked.get("floors", ()))),
        ceilings=tuple(map(Ceiling.from_json, asked.get("ceilings", ()))),
        unjudged=tuple(asked.get("floors_not_judged", ())),
        derived=bool(asked.get("derived")),
        look=Look.from_json(asked["look"]) if asked.get("look") else None,
        samples=tuple(asked.get("samples", ())),
        drive=Drive.from_json(asked["drive"]) if asked.get("drive") else None,
        apart=Apart(**asked["apart"]) if asked.get("apart") else None,
        clipped=_clipped(run),
        silent=tuple(Silent(**each) for each in asked.get("silent", ())),
        parts={
            name: _series(run, "loss", "evaluated", name)[1]
            for name in run.matrix("loss", "evaluated").sites
            if name != "<loss>"
        },
    )


def counted(heads: Mapping[str, Accuracy]) -> dict[str, Accuracy]:
    """Those heads that had something to count at every evaluation."""
    return {name: head for name, head in heads.items() if head.counts and min(head.counts) > 0}


def _heads(run: Run) -> dict[str, Accuracy]:
    found = {}
    for name in run.matrix("metric", "count").sites:
        steps, hits = _series(run, "metric", "hits", name)
        counts = _series(run, "metric", "count", name)[1]
        whole = len(counts)  # hits are written first, and a kill may come between the two
        found[name] = Accuracy(steps[:whole], hits[:whole], counts)
    return counted(found)


def _clipped(run: Run) -> float | None:
    factors = read_course(run.folder.name, run).factor
    if not np.isfinite(factors).any():
        return None
    return float(np.median(np.where(np.isfinite(factors), factors, 1.0)))


def _series(run: Run, kind: str, stat: str, site: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Steps and values of one column, where it was seen."""
    matrix = run.matrix(kind, stat)
    if site not in matrix.sites:
        return (), ()
    column = matrix.sites.index(site)
    rows = matrix.seen[:, column]
    return tuple(matrix.steps[rows].tolist()), tuple(matrix.values[rows, column].tolist())
