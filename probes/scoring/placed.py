"""Whether labels are asked for at places of their own, and not of whichever output suits them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.layout import Labels
from probes.scoring.answers import grad_with, scores
from probes.scoring.targets import varied
from probes.scoring.wanted import wanted

SHARE = 0.9  # of the labels, which must be answered for as far from their own place as each other
PASSES = 3  # labels of a row that are changed, one at a time
FAINT = 0.1  # of the most that any row moves: less comes of labels in other rows
STILL = 1e-3  # of the largest gradient: what moves less is the rounding of another order


def is_placed(experiment: Experiment, labels: Labels) -> bool:
    """Whether each label is asked for at its own place, or all as far from it.

    None is by a loss that lays labels to outputs by what these are, as a matching of queries or
    an alignment of frames does: there a place says nothing of the label that has its number.
    Raises ExperimentError where the subject raises, or no output has the labels' axes.
    """
    memo: dict[str, bool] = experiment.memo.setdefault("placed labels", {})
    if labels.key not in memo:
        own = is_asked(experiment, labels) or _is_answered_in_place(experiment, labels)
        memo[labels.key] = own and not _is_a_set(experiment, labels)
    return memo[labels.key]


def is_asked(experiment: Experiment, labels: Labels) -> bool:
    """Whether outputs are asked for the labels at their own places, fed to a decoder as well."""
    return any(each.key == labels.key and each.ahead == 0 for each in wanted(experiment))


def _is_answered_in_place(experiment: Experiment, labels: Labels) -> bool:
    """Whether another label moves the gradient most where all do, counted from their own places.

    One label of every row is changed at once, at other places each time.
    """
    grad, values = scores(experiment, labels).grad, experiment.tensors[labels.key]
    away: Counter[tuple[int, ...]] = Counter()
    for only in _one_a_row(_real(values, labels)):
        other = varied(values, only)
        after = None if other is None else _with(experiment, labels, {labels.key: other})
        if after is None:
            continue
        moved = (after - grad).abs().amax(-1)
        most_of_row = moved.flatten(1).amax(1)
        for row in (most_of_row > FAINT * most_of_row.max()).nonzero().flatten().tolist():
            most = torch.unravel_index(moved[row].argmax(), moved[row].shape)
            for place in only[row].nonzero().tolist():
                away[tuple(int(a) - b for a, b in zip(most, place, strict=True))] += 1
    return bool(away) and max(away.values()) >= SHARE * away.total()


def _is_a_set(experiment: Experiment, labels: Labels) -> bool:
    """Whether it is all the same where in its row a label stands, with all that goes with it.

    No gradient moves then: not the place of a label, but what it is, finds its output.
    """
    grad, values = scores(experiment, labels).grad, experiment.tensors[labels.key]
    real = _real(values, labels)
    if torch.equal(_turned(values, real), values):
        return False
    shape = values.shape
    beside = [k for k, tensor in experiment.tensors.items() if tensor.shape[: len(shape)] == shape]
    for keys in (beside, [key for key in beside if key in (labels.key, *experiment.targets)]):
        others = {key: _turned(experiment.tensors[key], real) for key in keys}
        after = _with(experiment, labels, others)
        if after is not None and bool((after - grad).abs().max() <= STILL * grad.abs().max()):
            return True
    return False


def _with(experiment: Experiment, labels: Labels, others: dict[str, Tensor]) -> Tensor | None:
    """The gradient with other values; None too where the subject does not bear them."""
    try:
        return grad_with(experiment, labels, others)
    except ExperimentError:
        return None


def _real(values: Tensor, labels: Labels) -> Tensor:
    """Labels of classes, and not the ignored one."""
    return (values >= 0) if labels.ignore is None else (values >= 0) & (values != labels.ignore)


def _one_a_row(real: Tensor) -> Iterator[Tensor]:
    """One true place in every row that has any, others each time, spread over the rows."""
    rows = [each.nonzero() for each in real]
    for turn in range(PASSES):
        only = torch.zeros_like(real)
        for row, places in enumerate(rows):
            if len(places):
                at = ((turn * len(rows) + row) * len(places)) // (PASSES * len(rows))
                only[(row, *places[at].tolist())] = True
        yield only


def _turned(tensor: Tensor, real: Tensor) -> Tensor:
    """What stands at the real places of each row, one of them on, and the last at the first."""
    out = tensor.clone()
    for row, here in enumerate(real):
        out[row][here] = tensor[row][here].roll(1, 0)
    return out
