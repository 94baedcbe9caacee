"""WIR028: vectors that are of unit length along another axis than dot products run along."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.operators.items import item_lengths, items_at
from probes.operators.normed import Cosine, Crossed


@dataclass(frozen=True, slots=True)
class UnitAxis:
    """What is to be a cosine is none: its vectors were normalised along an axis of items.

    `F.normalize`, and a division by a norm, give unit length along one axis, by default the second.
    Where that is the axis of samples, or of a sample's tokens or views, by the batch's own, and two
    such tensors are multiplied and summed along another, the results are not cosines, and each
    item hangs on those beside it. `F.cosine_similarity` is told where it runs along such an axis,
    and where along one that it spread one of the two over. Maps whose second axis holds channels,
    and vectors of a layer's weights, are healthy.

    Sick: `z = F.normalize(z); z @ z.mT` of (sample, view, feature).
    Healthy: `F.normalize(z, dim=-1)`; `F.normalize(maps)` of (sample, channel, row, column);
    `one = F.normalize(one, dim=0); one.T @ two` of features that are to be unlike each other.
    """

    code: ClassVar[str] = "WIR028"
    rule: ClassVar[str] = "unit-axis"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a line."""
        said = set[tuple[str, str | None]]()
        for each in experiment.operated.crossed:
            place = each.of.site, each.of.source
            if place not in said and (what := _is_along_items(experiment, each)) is not None:
                said.add(place)
                yield self._crossed(each, what)
        for cosine in experiment.operated.cosines:
            place = cosine.site, cosine.source
            if place not in said and (why := _why(experiment, cosine)) is not None:
                said.add(place)
                yield self._cosine(cosine, why)

    def _crossed(self, crossed: Crossed, what: str) -> Finding:
        of, summed = crossed.of, " x ".join(map(str, crossed.summed))
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{of.op}` of {of.shape} gives unit length along axis {of.axis}, {what}, "
            f"and dot products run along {summed} others, where lengths are "
            f"{crossed.low:.2g} to {crossed.high:.2g}: they are no cosines, and each item hangs on "
            "those beside it.",
            fix="Normalise along the axis of features, mostly `dim=-1`.",
            site=of.site,
            op=of.op,
            phase="forward",
            source=of.source,
            evidence=(
                Evidence("axis of unit length", of.axis),
                Evidence("least length along what is summed", crossed.low, 1),
                Evidence("greatest", crossed.high, 1),
            ),
        )

    def _cosine(self, cosine: Cosine, why: str) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`cosine_similarity` of {cosine.shapes[0]} and {cosine.shapes[1]} runs along "
            f"axis {cosine.axis}, {why}, and gives {cosine.gave}: the features are compared one by "
            "one, and not the vectors.",
            fix="Run it along the axis of features, mostly `dim=-1`.",
            site=cosine.site,
            op="cosine_similarity",
            phase="forward",
            source=cosine.source,
            evidence=(Evidence("axis", cosine.axis),),
        )


def _is_along_items(experiment: Experiment, crossed: Crossed) -> str | None:
    """What stands along the axis that was normalised, in words; None where no items do."""
    of = crossed.of
    if not of.square or of.shape[0] != experiment.size or len(crossed.summed) != 1:
        return None
    if of.axis == len(of.shape) - 1 or crossed.summed[0] != of.shape[-1]:
        return None
    if of.axis == 0:
        return "that of samples" if of.learned else None
    key = items_at(experiment, of.axis, of.shape[of.axis])
    return None if key is None else f"the items of `{key}`"


def _why(experiment: Experiment, cosine: Cosine) -> str | None:
    """Why it runs along the wrong axis, in words."""
    one, two = cosine.shapes
    long = max(len(one), len(two))
    sizes = [(1,) * (long - len(shape)) + shape for shape in (one, two)]
    lengths = {shape[cosine.axis] for shape in sizes}
    if len(lengths) == 2 and cosine.axis < long - 1:
        return "over which one of the two is spread"
    keys = {tuple(each.shape) for each in experiment.tensors.values() if each.is_floating_point()}
    if one != two or len(one) != 3 or cosine.axis != 1 or one in keys:
        return None
    key = items_at(experiment, 1, one[1]) if one[0] == experiment.size else None
    return None if key is None or one[2] in item_lengths(experiment) else f"the items of `{key}`"
