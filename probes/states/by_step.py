"""What modules give in the loss's pass over all places, beside their calls step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from probes.bus import Kind
from probes.compare import gap, scale
from probes.execution import Event
from probes.experiment import Experiment
from probes.scoring.answers import lines_of
from probes.states.in_steps import LEAST, given_by
from probes.subject import Batch


def first_apart(
    experiment: Experiment, fed: Batch, place: int, step: int, row: int, steps: int
) -> str:
    """The first module that gives the sample something else at that step than in the loss.

    fed: the batch of the loss. place: the one of the first step. Modules are compared that are
    called once a step, or once by both.
    """
    for module, whole, parts in _pairs(experiment, fed):
        pair = _at(whole, parts, place, step, steps, experiment.size)
        if pair is None:
            continue
        one, two = (_of_sample(value, row, experiment.size) for value in pair)
        if one.shape != two.shape:
            continue
        if one.is_floating_point() and gap(one, two)[0] > LEAST * scale(one):
            return module
    return "model"


def _of_sample(value: Tensor, row: int, size: int) -> Tensor:
    """The sample's own, where there is one a sample; what is the same for all samples as it is."""
    return value[row if len(value) == size else 0] if len(value) in (1, size) else value


def head_agrees(experiment: Experiment, scores: Tensor) -> bool:
    """Whether what the last module gives of the first scores of the loss is there in `predict`.

    Then what is done with it afterwards differs, on purpose. True also where no module gives
    scores by class.
    """
    size, places, classes = scores.shape
    heads = []
    for _, whole, parts in _pairs(experiment, experiment.batch):
        rows = list(_rows(whole, size, places, classes))
        if rows:
            known = [r for part in parts for r in _rows([part], size, 0, classes)]
            heads.append((rows[0], known))
    if not heads:
        return True
    first, known = heads[-1]
    return any(gap(first, one)[0] <= LEAST * scale(first) for one in known)


def _rows(values: Sequence[Tensor], size: int, places: int, classes: int) -> Iterator[Tensor]:
    """(sample, class) at every place, in order; places: how many there are, 0 for any."""
    for value in values:
        if tuple(value.shape) == (size, classes):
            yield value
            continue
        count = places or value.numel() // max(1, size * classes)
        lines = lines_of(value, (size, count)) if value.ndim > 1 and count else None
        if lines is not None and lines.shape[-1] == classes:
            yield from lines.unbind(1)


def _pairs(experiment: Experiment, fed: Batch) -> Iterator[tuple[str, list[Tensor], list[Tensor]]]:
    """What each site gives in the loss and in `predict`, in the order of the loss."""
    subject = experiment.subject
    assert subject.predict is not None
    whole = _by_site(given_by(experiment, subject.loss, fed))
    steps = _by_site(given_by(experiment, subject.predict, experiment.batch))
    for (site, module), values in whole.items():
        if (site, module) in steps:
            yield module, values, steps[site, module]


def _by_site(events: Iterator[Event]) -> dict[tuple[str, str], list[Tensor]]:
    found: dict[tuple[str, str], list[Tensor]] = {}
    for each in events:
        if each.kind is Kind.OUTPUT and each.value is not None:
            found.setdefault((each.site, each.module), []).append(each.value)
    return found


def _at(
    whole: Sequence[Tensor], parts: Sequence[Tensor], place: int, step: int, steps: int, size: int
) -> tuple[Tensor, Tensor] | None:
    """What both give then; the whole of it where both are called once, as for an input."""
    if len(whole) == 1 and steps > 1 and all(part.shape == whole[0].shape for part in parts):
        return whole[0], parts[min(step, len(parts) - 1)]  # as of an input, be it read anew
    extra = len(parts) - steps
    if step >= steps or extra < 0 or extra >= len(parts):
        return None
    if len(whole) > place + step and len(whole) > 1 and not extra:
        return whole[place + step], parts[step]
    if len(whole) - 1 != extra:  # as many calls beside it, such as for another input
        return None
    one, part = whole[-1], parts[extra + step]
    axis = 1 if len(one) in (1, size) and one.ndim > 2 else 0
    if part.ndim == one.ndim - 1:
        part = part.unsqueeze(axis)
    if part.ndim != one.ndim or one.ndim < 2:
        return None
    if one.shape[axis] <= place + step or not part.shape[axis]:
        return None
    return one.select(axis, place + step), part.select(axis, -1)
