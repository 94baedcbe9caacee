"""Outputs that the loss scores at places which a mask hides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.compare import Comparison
from probes.experiment import LOSS, Experiment, with_leaf
from probes.finding import ExperimentError
from probes.layout import Labels, Mask
from probes.masking.hidden import Hidden, hidden
from probes.masking.trailing import trailing
from probes.masking.visible import Visible, changed, differ
from probes.reading.alive import alive
from probes.scoring.answers import Scores, keys, lines_of, scores
from probes.scoring.placed import is_asked, is_placed
from probes.subject import Batch
from probes.vary import vary

LEAST = 8  # classes of labels whose ends are taken for padding without a mask


@dataclass(frozen=True, eq=False)
class HiddenScores:
    """wrong: of the labels' shape, true at places that the mask hides and that are scored."""

    found: Scores
    mask: Hidden
    wrong: Tensor


def hidden_scores(experiment: Experiment, labels: Labels) -> HiddenScores | None:
    """Of the first mask at whose hidden places outputs are scored against these labels by place.

    Raises ExperimentError where the subject raises.
    """
    memo: dict[str, HiddenScores | None] = experiment.memo.setdefault("hidden scores", {})
    if labels.key not in memo:
        memo[labels.key] = _hidden_scores(experiment, labels)
    return memo[labels.key]


def _hidden_scores(experiment: Experiment, labels: Labels) -> HiddenScores | None:
    masks = label_masks(experiment, labels)
    if not masks:
        return None
    found = scores(experiment, labels)
    if found.shift is None and not is_asked(experiment, labels):
        return None  # whose labels they are is LBL002's
    for mask in masks:
        wrong = _scored(found, mask)
        is_all = mask.mask.means != "id" or bool((found.scored | mask.keep).all())
        sure = bool(wrong.any()) and is_all and _is_its_own(experiment, found, mask, labels)
        if sure and is_placed(experiment, labels):
            return HiddenScores(found, mask, wrong)
    return None


def comes_of_hidden_scores(experiment: Experiment, each: Hidden, found: Comparison) -> bool:
    """Whether nothing but the loss moves with what is hidden, by its scores of hidden places.

    Where their labels can be ignored, whether it moves no more once they are.
    """
    if any(one.site != LOSS for one in found.outputs):
        return False
    other = changed(experiment, [each])
    for labels in keys(experiment):
        try:
            scored = hidden_scores(experiment, labels)
        except ExperimentError:
            continue
        if scored is not None and scored.mask.mask.key == each.mask.key and other is not None:
            return _is_still(experiment, labels, scored, each, other)
    return False


def _is_still(
    experiment: Experiment, labels: Labels, scored: HiddenScores, each: Hidden, other: Batch
) -> bool:
    """Whether the other batch has the same loss once labels at hidden places are ignored."""
    if labels.ignore is None:
        return True
    values = experiment.tensors[labels.key]
    values = values.masked_fill(~scored.mask.keep, labels.ignore)
    try:
        before, after = (
            experiment.evaluate(with_leaf(batch, labels.key, values))
            for batch in (experiment.batch, other)
        )
    except ExperimentError:
        return True
    return not differ(before, after, Visible(experiment, each), experiment.evaluated.noise)


def label_masks(experiment: Experiment, labels: Labels) -> list[Hidden]:
    """Masks of the labels' axes, also those that hide more than padding; else runs at their ends.

    The runs are of one label that stands nowhere else.
    """
    values = experiment.tensors[labels.key]
    shape = tuple(values.shape)
    found = [m for m in experiment.masks if tuple(m.keep.shape) == shape]
    known = {each.mask.key for each in found}
    found += [
        m
        for m in hidden(experiment.layout, experiment.layout, experiment.tensors)
        if tuple(m.keep.shape) == shape
        and m.mask.key not in known
        and m.mask.key.rpartition(".")[2].endswith("attention_mask")
        and bool(((m.keep[:, 1:] != m.keep[:, :-1]).sum(1) <= 1).all())
    ]
    runs = trailing(values) if not found else None
    if runs is not None and int(values.max()) >= LEAST:
        mask = Mask(labels.key, (labels.key,), means="id")
        found = [Hidden(mask, labels.key, ~runs, None, f"labels=({labels!r},)")]
    return [m for m in found if not bool(m.keep.all())]


def _scored(found: Scores, mask: Hidden) -> Tensor:
    """Hidden places that the loss looks at, but for those just before a visible one."""
    start = torch.zeros_like(mask.keep)
    start[..., :-1] = mask.keep[..., 1:]
    return found.scored & ~mask.keep & ~start


def _is_its_own(experiment: Experiment, found: Scores, mask: Hidden, labels: Labels) -> bool:
    """Whether output places are those of the masked key: a token moves the output where it is."""
    if mask.key == labels.key:
        return True
    tensor = experiment.tensors[mask.key]
    only, at = torch.zeros_like(mask.keep), {}
    for row in range(len(tensor)):
        places = mask.keep[row].nonzero().tolist()
        if places:
            place = tuple(places[(row + 1) * len(places) // (len(tensor) + 1)])
            only[(row, *place)], at[row] = True, place
    other = vary(tensor, only)
    if other is None:
        return False
    try:
        after = alive(experiment, with_leaf(experiment.batch, mask.key, other))
    except ExperimentError:
        return False
    shape = tuple(mask.keep.shape)
    if len(after.shown) <= found.index:
        return False
    lines = (
        lines_of(found.shown.tensor, shape, found.first),
        lines_of(after.shown[found.index].tensor, shape, found.first),
    )
    if lines[0] is None or lines[1] is None or lines[0].shape != lines[1].shape:
        return False
    apart = (lines[1] - lines[0]).detach().abs().nan_to_num().sum(-1)
    most = [
        tuple(int(i) for i in torch.unravel_index(apart[row].argmax(), apart[row].shape))
        for row in at
    ]
    hits = sum(one == at[row] for one, row in zip(most, at, strict=True))
    return hits * 3 >= len(at) * 2
