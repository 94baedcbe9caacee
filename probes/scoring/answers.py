"""Which output place is scored against which label: by the loss's gradient, one label changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError, Finding
from probes.layout import Labels
from probes.reading.alive import Alive, Shown, alive
from probes.scoring.targets import varied

EVEN = 1e-3  # of a gradient's size: sums as small are nothing
SMALL = 1e-5  # of the largest gradient: less does not count as moved
Place = tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """The label at one place was changed, and these output places were scored otherwise.

    numbers: how many numbers of the output have another gradient. even: whether the gradient
    moved as that of classes does: one or two numbers, or as much up as down.
    """

    label: Place
    outputs: tuple[Place, ...]
    numbers: int
    even: bool = True


@dataclass(frozen=True)
class Scores:
    """What the loss looks at of an output.

    shown: the output, the one of that index among all. grad: (label axes, class) of the unchanged
    loss, zero where it is not scored. answers: of the labels that were changed one by one.
    first: whether the classes stand next to the samples, of which the shape alone tells nothing.
    """

    index: int
    shown: Shown
    grad: Tensor
    answers: tuple[Answer, ...]
    first: bool = False

    @property
    def shift(self) -> int | None:
        """How far along the last axis a label stands after its output; None where it is not one."""
        found = {
            each.label[-1] - each.outputs[0][-1]
            for each in self.answers
            if len(each.outputs) == 1 and each.outputs[0][:-1] == each.label[:-1]
        }
        whole = all(len(a.outputs) == 1 and a.outputs[0][:-1] == a.label[:-1] for a in self.answers)
        return found.pop() if whole and len(found) == 1 else None

    @property
    def scored(self) -> Tensor:
        """(label axes) boolean: whether the loss depends on the output there."""
        size = self.grad.abs().amax(-1)
        return size > SMALL * size.max()


def keys(experiment: Experiment) -> Iterator[Labels]:
    """Declared and guessed labels of classes, then keys that were found to be labels."""
    known = {each.key for each in experiment.layout.labels}
    found = [Labels(key, "output") for key in experiment.targets if key not in known]
    for each in (*experiment.layout.labels, *found):
        values = experiment.tensors.get(each.key)
        if each.kind == "class" and values is not None and _is_classes(values, experiment.size):
            yield each


def _is_classes(values: Tensor, size: int) -> bool:
    rows = values.ndim > 0 and len(values) == size
    return rows and not values.is_floating_point() and values.dtype is not torch.bool


def at_the_loss(experiment: Experiment, finding: Finding) -> Finding:
    """The finding with the user's line that hands scores of classes to a loss, if there is one."""
    lines = {each.line for each in alive(experiment).classed}
    one = lines.pop() if len(lines) == 1 and finding.source is None else finding.source
    return replace(finding, source=one)


def scores(experiment: Experiment, labels: Labels, tries: int = 4) -> Scores:
    """Which outputs answer to some of the labels, spread over samples and places.

    The output is the last tensor of the model that has the labels' axes and that the loss depends
    on. Raises ExperimentError where there is none.
    """
    known = f"scores of {labels.key}"
    if known not in experiment.memo:
        experiment.memo[known] = _made(experiment, labels, tries)
    found: Scores = experiment.memo[known]
    return found


def grad_with(
    experiment: Experiment, labels: Labels, others: Mapping[str, Tensor]
) -> Tensor | None:
    """The gradient of `scores` with other values in some keys; None where its form is another."""
    found = scores(experiment, labels)
    shape = tuple(experiment.tensors[labels.key].shape)
    lines = _grad_at(experiment, others, found.index, shape, found.first)
    return None if lines is None or lines.shape != found.grad.shape else lines


def _grad_at(
    experiment: Experiment,
    others: Mapping[str, Tensor],
    index: int,
    shape: tuple[int, ...],
    first: bool,
) -> Tensor | None:
    batch = experiment.batch
    for key, other in others.items():
        batch = with_leaf(batch, key, other)
    after = alive(experiment, batch, picks=False)
    if len(after.shown) <= index:
        return None
    grad = after.of_loss([after.shown[index].tensor])[0]
    return None if grad is None else lines_of(grad, shape, first)


def _made(experiment: Experiment, labels: Labels, tries: int) -> Scores:
    values = experiment.tensors[labels.key]
    before = alive(experiment)
    which = _scored(before, tuple(values.shape))
    if which is None:
        raise ExperimentError(
            f"the loss depends on no output of the model with the axes of `{labels.key}`"
        )
    index, grad, first = which
    answers = tuple(_answers(experiment, labels, index, grad, first, tries))
    return Scores(index, before.shown[index], grad, answers, first)


def _scored(seen: Alive, shape: tuple[int, ...]) -> tuple[int, Tensor, bool] | None:
    """The place of the output among what was shown, its gradient by label, and `Scores.first`."""
    fits = [i for i, each in enumerate(seen.shown) if lines_of(each.tensor, shape) is not None]
    own = {id(each) for each in seen.given}
    fits = sorted(fits, key=lambda i: id(seen.shown[i]) in own)
    for index in fits[::-1]:
        grad = seen.of_loss([seen.shown[index].tensor])[0]
        first = grad is not None and has_classes_first(grad, shape)
        lines = None if grad is None else lines_of(grad, shape, first)
        if lines is not None and bool(lines.any()) and bool(lines.isfinite().all()):
            return index, lines, first
    return None


def has_classes_first(grad: Tensor, shape: tuple[int, ...]) -> bool:
    """Of as many classes as places: whether the gradient is that of classes next to the samples.

    Where a softmax is scored, a place's gradient sums to nothing over its classes.
    """
    if grad.ndim != len(shape) + 1 or grad.ndim < 3 or grad.shape[1] != grad.shape[-1]:
        return False
    if tuple(grad.shape[:-1]) != shape:
        return False
    least = EVEN * float(grad.abs().sum())
    first, last = (float(grad.sum(axis).abs().sum()) for axis in (1, -1))
    return first <= least < last


def lines_of(value: Tensor, shape: tuple[int, ...], first: bool = False) -> Tensor | None:
    """The value as (label axes, class), where it has that form; else None.

    first: the classes stand next to the samples, where they could stand last as well.
    """
    if tuple(value.shape[:-1]) == shape and value.shape[-1] > 1 and not first:
        return value
    inner = shape[0:1] + shape[1:]
    if value.ndim == len(shape) + 1 and (value.shape[0], *value.shape[2:]) == inner:
        return value.movedim(1, -1)
    rows = torch.Size(shape).numel()
    if len(shape) > 1 and value.ndim == 2 and len(value) == rows and value.shape[1] > 1:
        return value.view(*shape, value.shape[1])
    return None


def _answers(
    experiment: Experiment, labels: Labels, index: int, grad: Tensor, first: bool, tries: int
) -> Iterator[Answer]:
    values = experiment.tensors[labels.key]
    for place in _places(values, labels.ignore, tries):
        only = torch.zeros_like(values, dtype=torch.bool)
        only[place] = True
        other = varied(values, only)
        if other is None or torch.equal(other, values):
            continue
        lines = _grad_at(experiment, {labels.key: other}, index, tuple(values.shape), first)
        if lines is None:
            continue
        moved = (lines - grad).abs() > SMALL * grad.abs().max()
        rows = [tuple(row) for row in moved.any(-1).nonzero().tolist()]
        yield Answer(place, tuple(rows), int(moved.sum()), _is_even(lines - grad, int(moved.sum())))


def _is_even(change: Tensor, numbers: int) -> bool:
    return numbers <= 2 or float(change.sum().abs()) <= EVEN * float(change.abs().sum())


def _places(values: Tensor, ignore: int | None, tries: int) -> list[Place]:
    """Labels that count, in as many samples as can be, at other places in each."""
    valid = torch.ones_like(values, dtype=torch.bool) if ignore is None else values != ignore
    found: list[Place] = []
    far = min(values.shape[1:], default=0) // 2 if values.ndim > 2 else -1
    for k, row in enumerate(range(len(values))):
        inner = valid[row].nonzero().tolist() if values.ndim > 1 else []
        if not inner and values.ndim > 1:
            continue
        first = min(1, len(inner) - 1)  # a loss that shifts looks at no first label
        chosen = inner[max(first, k * len(inner) // len(values)) :] or [[]]
        # far off the diagonal, where a map that is transposed is as it was
        at = tuple(next((each for each in chosen if _spread(each) > far), chosen[0]))
        if values.ndim == 1 and not bool(valid[row]):
            continue
        found.append((row, *at))
    step = max(1, len(found) // tries)
    return found[::step][:tries]


def _spread(place: Sequence[int]) -> int:
    return max(place, default=0) - min(place, default=0)
