"""MSK014: a module tells the places of padding apart, and not those of what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from probes.bus import Kind
from probes.compare import scale
from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.masking.rectangles import rectangles
from probes.reading.alive import Alive, Shown, alive

Parts = Callable[[tuple[int, ...]], tuple[Tensor, Tensor] | None]


@dataclass(frozen=True, slots=True)
class PlacesOfPadding:
    """A module gives one vector at all visible places of a sample, and many at those of padding.

    As where positions are summed up over the mask turned round: every real place gets the first
    position, and the padding is numbered. Looked at is what each module gives for the samples with
    several places of both kinds, under masks of sequences and under those of images that are padded
    on the right and below, by cell or by patch. The loss must hang on what is visible of it, and
    not on what is hidden, as it would where the hidden is to be filled in.

    Sick: `table(pad.cumsum(1))`, where `pad` is true at padding.
    Healthy: `table((~pad).cumsum(1))`.
    """

    rows: int = 2  # samples that have places of both kinds
    least: float = 1e-3  # of the size of all: what differs by less is the same

    code: ClassVar[str] = "MSK014"
    rule: ClassVar[str] = "places-of-padding"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A mask that hides something, and a loss."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        if not any(True for _ in _masks(experiment)):
            return "no mask of sequences or images hides anything"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a mask: the first module."""
        seen = alive(experiment)
        for key, guessed, parts in _masks(experiment):
            for each in seen.shown:
                found = parts(tuple(each.tensor.shape)) if each.kind is Kind.OUTPUT else None
                turned = found is not None and self._is_turned(each.tensor.detach(), *found)
                if found is not None and turned and _is_of_visible(seen, each, *found):
                    finding = self._finding(key, each, int(found[0].sum()))
                    yield resting_on(finding, [guessed] if guessed else [])
                    break

    def _is_turned(self, value: Tensor, visible: Tensor, hidden: Tensor) -> bool:
        """Whether in each sample all visible places have one vector, and the hidden ones do not."""
        value = value.reshape(len(visible), visible.shape[1], -1)
        least = self.least * scale(value)
        both = ((visible.sum(1) > 1) & (hidden.sum(1) > 1)).nonzero().flatten().tolist()
        spreads = [
            [float((value[i][w] - value[i][w][:1]).abs().max()) for w in (visible[i], hidden[i])]
            for i in both[:4]
        ]
        return len(both) >= self.rows and all(
            one < 1e-3 * least and two > least for one, two in spreads
        )

    def _finding(self, key: str, each: Shown, count: int) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{each.module}` gives one and the same at all places of a sample that "
            f"`{key}` lets see, {count} in all, and something else at each place of its padding.",
            fix=f"Turn `{key}` round before it comes to `{each.module}`: what is counted up there "
            "is the padding.",
            site=each.module,
            phase="forward",
            evidence=(Evidence("visible places that are told apart", 0, None, f"of {count}"),),
        )


def _masks(experiment: Experiment) -> Iterator[tuple[str, str | None, Parts]]:
    """Every mask of sequences and images, the line that would declare it, and how to lay it."""
    done = set[str]()
    for each in experiment.masks:
        if each.keep.ndim == 2 and each.mask.key not in done and not bool(each.keep.all()):
            done.add(each.mask.key)
            yield each.mask.key, each.guessed, _over(each.keep)
    for image in rectangles(experiment):
        yield image.key, None, image.parts


def _over(keep: Tensor) -> Parts:
    def parts(shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
        return (keep, ~keep) if len(shape) > 2 and shape[:2] == tuple(keep.shape) else None

    return parts


def _is_of_visible(seen: Alive, each: Shown, visible: Tensor, hidden: Tensor) -> bool:
    """Whether the loss hangs on visible places, and on no hidden one."""
    grad = seen.of_loss([each.tensor])[0]
    if grad is None:
        return False
    felt = (grad.reshape(len(visible), visible.shape[1], -1) != 0).any(-1)
    return bool((felt & visible).any()) and not bool((felt & hidden).any())
