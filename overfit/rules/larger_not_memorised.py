"""FIT013: a few samples are memorised, more are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

from overfit.ceilings import CONFLICT, Ceiling
from overfit.curves import Curves
from overfit.floors import MEAN, PRIOR
from overfit.look import Look
from overfit.rules.diverged import Diverged
from overfit.rules.lacking import lacks_course
from overfit.rules.memorised import Memorised
from overfit.rules.too_slow import TooSlow
from overfit.trend import trend
from probes.finding import Evidence, Finding, Verdict

APART = (
    "Look at these samples: give nearly equal inputs one label, or the model what tells them apart."
)
ROOM = (
    "Give the model more room (width, layers, fewer frozen parts), or look whether what it sees of "
    "the samples tells them apart."
)


@dataclass(frozen=True, slots=True)
class _Points:
    """What it points to, what mends that, and where; guessed: it was not measured."""

    words: str
    fix: str
    site: str | None = None
    source: str | None = None
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class LargerNotMemorised:
    """The smaller suite is memorised and the larger one is not: capacity, or a conflict.

    The same loop learns the smaller samples, which are among the larger, so nothing is cut. Either
    the model has no room for more (it is affine in its input, or affine behind a layer of few
    numbers, whose best affine space makes half of what is left; else its narrowest is named), or
    samples contradict each other in what the model sees of them, although no two are equal, or
    training needs more time: so it is where no lack of room was measured, the loss still falls, and
    each sample was seen fewer times than the smaller ones took. It is affine where mixtures of
    inputs, within the two and beyond, give the mixture of the outputs, and the last layer is given
    fewer numbers than there are places. It is a conflict where
    `explained` of the samples that stay wrong, or more, have an input within 2 % of the usual
    distance of another's that has a different label.

    Sick: a layer of one unit between the input and five classes.
    Healthy: the same with sixty-four.
    """

    explained: float = 0.5

    family: ClassVar[Literal["verdict"]] = "verdict"
    code: ClassVar[str] = "FIT013"
    rule: ClassVar[str] = "larger-not-memorised"
    unless: ClassVar[tuple[Memorised, Diverged]] = (Memorised(), Diverged())
    slow: ClassVar[TooSlow] = TooSlow()

    def lacks(self, curves: Curves) -> str | None:
        """A suite of fewer samples."""
        if (why := lacks_course(curves)) is not None:
            return why
        if curves.smaller or self.unless[0].holds(curves):
            return None
        return "there is no suite of fewer samples"

    def memorised(self, curves: Curves) -> Curves | None:
        """The largest of the smaller suites that was memorised; None where none was."""
        fit = [each for each in curves.smaller if self.unless[0].holds(each)]
        return max(fit, key=lambda each: each.size, default=None)

    def _near(self, curves: Curves) -> str | None:
        """The conflict of nearly equal inputs that explains what stays wrong, in words."""
        look = curves.look
        if look is None or not look.near or not look.wrong:
            return None
        paired = {place for each in look.near for place in (each.one, each.other)}
        if len(paired & set(look.wrong)) < self.explained * len(look.wrong):
            return None
        first = look.near[0]
        names = [
            curves.samples[i] if i < len(curves.samples) else f"sample {i}"
            for i in (first.one, first.other)
        ]
        more = f", and {len(look.near) - 1} pairs more" if len(look.near) > 1 else ""
        return (
            f"a conflict: {names[0]} and {names[1]} lie {first.share:.1%} of the usual distance "
            f"apart in what the model is given, and have different labels{more}; of the "
            f"{len(look.wrong)} that stay wrong, {len(paired & set(look.wrong))} are among them"
        )

    def holds(self, curves: Curves) -> bool:
        """Whether fewer samples are memorised, and these are not."""
        if any(other.holds(curves) for other in self.unless) or self.slow.is_short(curves):
            return False
        return self.memorised(curves) is not None

    def read(self, curves: Curves) -> bool:
        """Whether fewer samples are memorised which cannot be without reading the input."""
        fewer = self.memorised(curves)
        if fewer is None or not self.holds(curves):
            return False
        known = [each for each in fewer.floors if each.name in (PRIOR, MEAN)]
        return bool(known) and not any(
            (each.accuracy or 0.0) >= 1 or (each.loss is not None and each.loss <= 0)
            for each in known
        )

    def _nearly(self, curves: Curves, points: _Points) -> bool:
        """Whether it is only short of some samples, and what it points to was not seen."""
        heads = curves.heads.values()
        return points.guessed and bool(heads) and all(h.last >= self.slow.nearly for h in heads)

    def _of_time(self, curves: Curves, fewer: Curves) -> _Points | None:
        """Too few steps, where each sample was seen fewer times than the smaller ones took.

        Not of a loss that has stopped falling.
        """
        seen, needed = _rounds(curves), _rounds(fewer)
        course = trend(curves.losses, curves.passes)
        stopped = course is not None and course.falls < self.slow.falling
        if seen >= needed or stopped:
            return None
        return _Points(
            f"too few steps: each was seen {seen:.3g} times, while it took {needed:.3g} times to "
            f"memorise the {fewer.size}",
            f"Give {curves.suite} {ceil(needed * curves.passes)} steps or more.",
        )

    def judge(self, curves: Curves) -> Iterator[Finding]:
        """One finding where fewer samples are memorised."""
        if not self.holds(curves):
            return
        fewer, look = self.memorised(curves), curves.look
        assert fewer is not None
        told = curves.told or f"the loss is {curves.end:.4g} of {curves.start:.4g}"
        near = self._near(curves)
        same = [each for each in curves.ceilings if each.name == CONFLICT]
        points = (
            _Points(near or _of_same(same), APART)
            if near is not None or same
            else _of_measured_room(look) or self._of_time(curves, fewer) or _of_room(look)
        )
        nearly = self._nearly(curves, points)
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE if nearly else Verdict.FAIL,
            message=(
                f"{fewer.suite} are memorised and {curves.suite} "
                f"{'nearly' if nearly else 'are not'} ({told}): this points to "
                f"{points.words}; no input is cut off, since the {fewer.size} are among the "
                f"{curves.size}."
            ),
            fix=points.fix,
            site=points.site,
            source=points.source,
            samples=look.wrong or None if look is not None else None,
            step=curves.steps[-1],
            evidence=(
                Evidence(f"steps to memorise {fewer.suite}", len(fewer.losses)),
                Evidence("steps of the larger suite", len(curves.losses), curves.budget),
                Evidence("loss at the end", curves.end, curves.start, anchor=curves.name),
            ),
        )


def _of_same(found: list[Ceiling]) -> str:
    """The conflict of inputs that are equal, or that the model cannot tell apart, in words."""
    if any(each.alike or each.unread for each in found):
        return "conflict: samples that the model does not tell apart have different labels"
    return "conflict: equal inputs have different labels"


def _of_measured_room(look: Look | None) -> _Points | None:
    """Too little room: an affine model, or few numbers in front of affine layers."""
    affine = None if look is None else look.bound
    if affine is not None:
        words = f"capacity: {affine.words}"
        return _Points(words, affine.fix, affine.layers[0], affine.source)
    held = None if look is None else look.held_up
    if held is not None:
        return _Points(f"capacity: {held.words}", held.fix, held.site, held.source)
    return None


def _of_room(look: Look | None) -> _Points:
    """Too little room, it is not known where: the narrowest layer."""
    if look is None or look.narrow is None:
        return _Points("capacity", ROOM, guessed=True)
    words = f"capacity: its narrowest layer is `{look.narrow}` with {look.width} outputs"
    return _Points(words, ROOM, look.narrow, guessed=True)


def _rounds(curves: Curves) -> float:
    """How many times each sample was trained on."""
    return len(curves.losses) / curves.passes
