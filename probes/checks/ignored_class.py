"""LBL008: a class that occurs is never scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.layout import Labels
from probes.masking.trailing import trailing
from probes.scoring.answers import Scores, keys, scores
from probes.scoring.class_names import NOTHING, name_of


@dataclass(frozen=True, slots=True)
class _Lost:
    """A class that is not scored, how often it occurs, and what the code calls it.

    sure: whether it is told to be a real one, by its name or by how seldom it is.
    """

    kind: int
    count: int
    name: str | None
    sure: bool


@dataclass(frozen=True, slots=True)
class IgnoredClass:
    """The loss looks at no output whose label is one certain class, and looks at all others.

    The class has a score in the output, occurs no more often than others, and not only at the ends
    of rows, as padding would: it is a real one, and is never learned. Such is an `ignore_index`
    that a class has as well, or a class weight of zero. One that occurs more often may stand where
    there is nothing to tell, as beside masked tokens: it is a real one where it stands at all
    padding too, classes are no ids, and the code has a name for each and calls it by none of
    padding; without names it is a note. What the layout declares as ignored, and what masks hide,
    is not looked at.

    Sick: `cross_entropy(scores, tags, ignore_index=0)` of tags from 0 on, padded with 0.
    Healthy: `cross_entropy(scores, tags, ignore_index=-1)` with -1 at padding.
    """

    least: int = 3  # places at which the class must occur
    often: float = 2.0  # times as often as the commonest other class, at most

    code: ClassVar[str] = "LBL008"
    rule: ClassVar[str] = "ignored-class"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss, and labels of classes."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        if not any(True for _ in keys(experiment)):
            return "no key of class labels is known: declare it by `Layout(labels=(Labels(...),))`"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of labels."""
        why = None
        for labels in keys(experiment):
            try:
                found = scores(experiment, labels)
            except ExperimentError as error:
                why = why or error
                continue
            if _is_asked(experiment, labels, found):
                ignored = self._ignored(experiment, labels, found)
                if ignored is not None:
                    yield self._finding(experiment, labels, ignored)
        if why is not None:
            raise why

    def _ignored(self, experiment: Experiment, labels: Labels, found: Scores) -> _Lost | None:
        """The class that is not; None where every class is scored."""
        values, classes = experiment.tensors[labels.key], found.grad.shape[-1]
        real = _visible(experiment, values) & (values >= 0) & (values < classes)
        if labels.ignore is not None:
            real &= values != labels.ignore
        lost = real & ~found.scored
        kinds = values[lost].unique()
        if len(kinds) != 1 or bool((found.scored & (values == kinds)).any()):
            return None
        inner = lost if values.ndim < 2 else lost & _before_another(found.scored)
        others = values[real & found.scored].unique(return_counts=True)[1]
        if len(others) < 2 or int(inner.sum()) < self.least:
            return None
        kind, name = int(kinds), name_of(experiment.subject, classes, int(kinds))
        if name is not None and NOTHING.search(name):
            return None
        often = int(lost.sum()) > self.often * int(others.max())
        if often and not _pads(experiment, values, kind):
            return None
        if often and _are_ids(experiment, values, classes):
            return None
        return _Lost(kind, int(inner.sum()), name, not often or name is not None)

    def _finding(self, experiment: Experiment, labels: Labels, lost: _Lost) -> Finding:
        called = "" if lost.name is None else f", `{lost.name}`"
        declares = f"declare `Labels({labels.key!r}, {labels.output!r}, ignore={lost.kind})`"
        unsure = "" if lost.sure else "If it is a class and not the want of one: l"
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if lost.sure else Verdict.NOTE,
            message=f"the loss looks at no output whose label in `{labels.key}` is {lost.kind}"
            f"{called}: it occurs {lost.count} times among others that are scored, and is never "
            "learned.",
            fix=f"{unsure or 'L'}et `ignore_index` be what stands at padding and is no class, such "
            f"as -100, and the weight of class {lost.kind} not zero; or {declares}.",
            site="<loss>",
            phase="forward",
            evidence=(Evidence(f"places of class {lost.kind} that are not scored", lost.count, 0),),
        )
        declared = any(each.key == labels.key for each in experiment.declared.labels)
        return resting_on(finding, [] if declared else [f"labels=({labels!r},)"])


def _is_asked(experiment: Experiment, labels: Labels, found: Scores) -> bool:
    """Whether the loss wants the score of the label to rise most, wherever it looks."""
    values = experiment.tensors[labels.key]
    return bool((found.grad.argmin(-1) == values)[found.scored].all())


def _visible(experiment: Experiment, values: Tensor) -> Tensor:
    """True where no mask of the labels' axes hides."""
    seen = torch.ones_like(values, dtype=torch.bool)
    for mask in experiment.masks:
        if tuple(mask.keep.shape) == tuple(values.shape):
            seen &= mask.keep
    return seen


def _pads(experiment: Experiment, values: Tensor, kind: int) -> bool:
    """Whether the class stands wherever a mask of the labels' axes hides, or ids end in padding."""
    hidden = [~each.keep for each in experiment.masks if each.keep.shape == values.shape]
    hidden += [runs for ids in _ids(experiment, values) if (runs := trailing(ids)) is not None]
    return any(bool(each.any()) and bool((values[each] == kind).all()) for each in hidden)


def _are_ids(experiment: Experiment, values: Tensor, classes: int) -> bool:
    """Whether a key of the labels' places holds ids of which there may be as many as classes."""
    return any(2 * classes > int(each.max()) > 1 for each in _ids(experiment, values))


def _ids(experiment: Experiment, values: Tensor) -> list[Tensor]:
    """Whole numbers of the labels' places among the inputs."""
    inputs = (e for key, e in experiment.tensors.items() if key not in experiment.targets)
    fits = [e for e in inputs if e.shape == values.shape and e.dtype is not torch.bool]
    return [each for each in fits if values.ndim > 1 and not each.is_floating_point()]


def _before_another(scored: Tensor) -> Tensor:
    """True at places with a scored one before them and one after them in their row."""
    before = scored.long().cumsum(-1) > 0
    after = scored.flip(-1).long().cumsum(-1).flip(-1) > 0
    return before & after
