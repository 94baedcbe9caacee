"""One training step, in which every look at single operators is taken."""

from __future__ import annotations

from dataclasses import dataclass

from probes.operators.batch_focal import BatchFocals, Focal
from probes.operators.cuts import Cuts, Looked
from probes.operators.doubled import Doubled, Doubles
from probes.operators.normed import Cosine, Crossed, NormedAxes
from probes.operators.one_hots import Met, OneHots
from probes.operators.prefix_sums import PrefixSums, Short
from probes.softmaxes.formed import Formed, Use
from probes.stepping.one_step import step_under
from probes.subject import Batch, Subject


@dataclass(frozen=True, slots=True)
class Operated:
    """What the operators of a step did.

    uses: of softmaxes and sigmoids, where that reaches the loss. crossed: products along another
    axis than the one that was normalised. cosines: calls of `cosine_similarity`.
    looked: look-ups by numbers that were cut to whole ones.
    doubled: sums of a tensor and itself. met: softmaxes and one-hots along another axis.
    short: differences of a running sum that are divided by one more than they sum.
    focals: cross entropies of several samples that a focal loss weighs as one.
    """

    uses: tuple[Use, ...]
    crossed: tuple[Crossed, ...]
    cosines: tuple[Cosine, ...]
    looked: tuple[Looked, ...]
    doubled: tuple[Doubled, ...]
    met: tuple[Met, ...]
    short: tuple[Short, ...]
    focals: tuple[Focal, ...]


def operated(subject: Subject, batch: Batch, samples: int) -> Operated:
    """One step was taken and undone. Raises ExperimentError where it raises."""
    model = subject.model
    formed, normed, cuts, doubles = Formed(model), NormedAxes(model), Cuts(model), Doubles(model)
    hots, sums, focals = OneHots(model), PrefixSums(model), BatchFocals(model)
    step_under(subject, batch, formed, normed, cuts, doubles, hots, sums, focals)
    return Operated(
        uses=tuple(use for use in formed.uses if use.reaches),
        crossed=tuple(normed.crossed),
        cosines=tuple(normed.cosines),
        looked=tuple(cuts.looked),
        doubled=tuple(doubles.found),
        met=hots.found(),
        short=sums.found(),
        focals=focals.found(samples),
    )
