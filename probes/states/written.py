"""Ids that `Subject.predict` writes, the likeliest step by step, beside the scores of the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.batch import leaves, map_leaves
from probes.compare import FILL, gap, scale
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.scoring.calls import Scoring
from probes.scoring.choices import Choices
from probes.scoring.taught import Taught, taught
from probes.states.by_step import first_apart, head_agrees
from probes.states.in_steps import agree, apart, forms
from probes.states.parted import Parted
from probes.subject import Batch
from probes.vary import vary

SPECIAL = 4  # first ids, that often pad, begin, end and stand for the unknown
REACH = 2  # places by which what a decoder is fed may stand after its labels


@dataclass(frozen=True)
class Written:
    """Ids of an output, each the likeliest of the scores of its step.

    ids: (sample, column). start: the first column that was chosen so. given: (sample, step, class)
    the scores that were asked. sure: (sample, step) whether all ids up to it were chosen so.
    """

    output: str
    ids: Tensor
    start: int
    given: Tensor
    sure: Tensor

    @property
    def chosen(self) -> Tensor:
        """(sample, step) the ids that were written."""
        return self.ids[:, self.start : self.start + self.given.shape[1]]


@dataclass(frozen=True)
class Seen:
    """One run: what the loss was given, and what `predict` wrote."""

    taught: Taught
    written: Written


def writes(experiment: Experiment) -> list[str]:
    """The outputs of `predict` that are ids by place, a row a sample."""
    if experiment.subject.predict is None:
        return []
    return [
        name
        for name, value in experiment.outputs.items()
        if value.dtype in (torch.int64, torch.int32)
        and value.ndim == 2
        and len(value) == experiment.size > 1
    ]


def from_written(experiment: Experiment, output: str) -> Parted | None:
    """How far the scores that ids were chosen by are from those of the loss under the same ids.

    None where they agree, and where not every id was the likeliest of its step, such as those of
    a beam search or a draw. The loss gets what was written in place of the labels, in all keys
    that hold these.
    """
    before = None if experiment.is_random else _seen(experiment, experiment.batch, output)
    place = None if before is None else _place(before)
    if before is None:
        return None
    begins = 0 if place is None else place
    fed = _fed(experiment, before, begins)
    after = _seen(experiment, fed, output, before.taught)
    if after is None:
        return None
    free = torch.equal(after.written.ids, before.written.ids)
    whole = (after if free else before).taught.scores
    if free and not _is_fed(before.taught.scores, whole, begins):
        return None
    if place is None:
        started = free and _hang_together(experiment, before, output)
        return _from_the_start(experiment, before, whole) if started else None
    return _later(experiment, before, whole, fed if free else experiment.batch, place)


def _seen(
    experiment: Experiment, batch: Batch, output: str, like: Taught | None = None
) -> Seen | None:
    choices, scoring = Choices(experiment.size), Scoring()
    ran = experiment.evaluate(batch, under=(choices, scoring))
    keys = {path: leaf for path, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}
    asked = taught(experiment, scoring.calls, keys, like)
    ids = ran.outputs.get(output)
    if asked is None or ids is None or ids.ndim != 2:
        return None
    classes = asked.scores.shape[-1]
    known = [each for each in choices.found if each[0].shape[-1] == classes]
    chains = (_chain(output, ids, known, start) for start in range(ids.shape[1]))
    best = max(
        (each for each in chains if each is not None),
        key=lambda each: each.given.shape[1],
        default=None,
    )
    return None if best is None else Seen(asked, best)


def _chain(
    output: str, ids: Tensor, choices: Sequence[tuple[Tensor, Tensor]], start: int
) -> Written | None:
    """The columns from here on as answers to the questions in their order."""
    sure = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    given: list[Tensor] = []
    known: list[Tensor] = []
    for scores, chosen in choices:
        if start + len(given) == ids.shape[1]:
            break
        now = sure & (chosen == ids[:, start + len(given)])
        if bool(now.all() if not given else now.any()):
            given.append(scores)
            known.append(now)
            sure = now
    if not given:
        return None
    return Written(output, ids, start, torch.stack(given, 1), torch.stack(known, 1))


def _place(seen: Seen) -> int | None:
    """The place of the loss that the first chosen id belongs to: where the scores are the same.

    The first place, or that after what both begin with, before any other; None where they are the
    same nowhere.
    """
    asked, given = seen.taught, seen.written.given[:, :1]
    likely: list[int] = [
        0,
        max(0, seen.written.start - asked.start),
        *range(1, asked.scores.shape[1]),
    ]
    for place in likely:
        look = asked.counted[:, place : place + 1, None] & _may(given)
        scores = asked.scores[:, place : place + 1]
        if scores.shape == given.shape and any(agree(given, one, look) for one in forms(scores)):
            return place
    return None


def _may(given: Tensor) -> Tensor:
    """What is no mask's, nor a probability of zero."""
    return given.isfinite() & (given > FILL) & (given != 0)


def _fed(experiment: Experiment, seen: Seen, place: int) -> Batch:
    """The batch with what was written in all keys that hold the labels, from that place on."""
    asked, written = seen.taught, seen.written
    steps = min(written.given.shape[1], asked.labels.shape[1] - place)
    cells = torch.zeros_like(asked.counted)
    cells[:, place : place + steps] = written.sure[:, :steps]
    cells &= asked.counted
    ids = asked.labels.clone()
    ids[:, place : place + steps] = written.chosen[:, :steps].to(ids.dtype)

    def changed(path: str, leaf: object) -> object:
        if not isinstance(leaf, Tensor) or path not in experiment.tensors:
            return leaf
        by = _behind(leaf, asked)
        return leaf if by is None else _with(leaf, by, ids, cells)

    return map_leaves(experiment.batch, changed)


def _behind(leaf: Tensor, asked: Taught) -> int | None:
    """How far into the key the first label stands; None where it does not hold them."""
    if leaf.ndim != 2 or len(leaf) != len(asked.labels) or leaf.is_floating_point():
        return None
    for by in range(REACH + 1):
        count = min(asked.labels.shape[1], leaf.shape[1] - by)
        look = asked.counted[:, :count]
        if count >= asked.labels.shape[1] - 1 and count > 0 and leaf.dtype is not torch.bool:
            own = leaf[:, by : by + count] == asked.labels[:, :count]
            if bool(own[look].all()) and bool(look.any()):
                return by
    return None


def _with(leaf: Tensor, by: int, ids: Tensor, cells: Tensor) -> Tensor:
    count = min(ids.shape[1], leaf.shape[1] - by)
    out = leaf.clone()
    part = out[:, by : by + count]
    part[cells[:, :count]] = ids[:, :count][cells[:, :count]].to(out.dtype)
    return out


def _is_fed(before: Tensor, after: Tensor, place: int) -> bool:
    """Whether the scores follow what stands before them, and nothing that comes after."""
    if before.shape != after.shape:
        return False
    small = 1e-4 * scale(before)
    early = gap(before[:, : place + 1], after[:, : place + 1])[0]
    return early <= small < gap(before, after)[0]


def _later(
    experiment: Experiment, seen: Seen, whole: Tensor, fed: Batch, place: int
) -> Parted | None:
    """How far the scores are apart after a first place where they are the same."""
    given = seen.written.given[:, : whole.shape[1] - place]
    steps = given.shape[1]
    whole = whole[:, place : place + steps]
    look = (_plain(experiment, seen, steps) & seen.taught.counted[:, place : place + steps])[
        ..., None
    ] & _may(given)
    form = next((one for one in forms(whole) if agree(given[:, :1], one[:, :1], look)), None)
    off = None if form is None else apart(given, form, look)
    if form is None or off is None or not bool(off.any()):
        return None
    first = int(off.any(0).nonzero()[0])
    row = int(off[:, first].nonzero()[0])
    largest, _ = gap(form, given, look & off[..., None])
    others = int(((form.argmax(-1) != given.argmax(-1)) & off).sum())
    how = (
        f"`predict` has written {first} of its own and the loss is given the same as labels"
        f", the scores of what comes next differ, and {_count(others)} would be another"
    )
    size = scale(form, look)
    site = first_apart(experiment, fed, place, first, row, given.shape[1])
    return Parted(how, place + first, row, largest, largest / size, 1e-2 * size, site)


def _count(others: int) -> str:
    return "no id" if not others else "one id" if others == 1 else f"{others} ids"


def _plain(experiment: Experiment, seen: Seen, steps: int) -> Tensor:
    """(sample, step) whether all ids up to there were chosen, and none before it is a special one.

    What a batch is padded with, begins or ends with, or never holds of the first ids, may be
    hidden, or end the writing.
    """
    asked, chosen = seen.taught, seen.written.chosen[:, :steps]
    ids = experiment.tensors[asked.key]
    odd = {int(i) for i in asked.labels[~asked.counted].unique()}
    odd |= set(range(SPECIAL)) - set(asked.labels[asked.counted].unique().tolist())
    padded = [one.keep for one in experiment.masks if one.key == asked.key]
    for keep in padded:
        odd |= {int(i) for i in ids[~keep].unique()} if keep.shape == ids.shape else set()
    last = asked.counted.shape[1] - 1 - asked.counted.flip(1).long().argmax(1)
    for ends in (ids[:, 0], asked.labels.gather(1, last[:, None])[:, 0]):
        odd |= {int(ends[0])} if len(ends.unique()) == 1 else set()
    special = torch.isin(chosen, torch.tensor(sorted(odd), device=chosen.device).to(chosen.dtype))
    before = special.long().cumsum(1) - special.long()
    return seen.written.sure[:, :steps] & (before == 0)


def _from_the_start(experiment: Experiment, seen: Seen, whole: Tensor) -> Parted | None:
    """How far they are apart at the first place already, in what the model itself gives.

    None also where all ids are the same, and their scores alone are not.
    """
    given = seen.written.given[:, : whole.shape[1]]
    steps = given.shape[1]
    whole = whole[:, :steps]
    look = _plain(experiment, seen, steps) & seen.taught.counted[:, :steps]
    other = look & (whole.argmax(-1) != given.argmax(-1))
    if not bool(other.any()) or head_agrees(experiment, seen.taught.scores):
        return None
    row = int(other.any(1).nonzero()[0])
    size = scale(whole)
    largest, _ = gap(whole, given, look[..., None] & _may(given))
    how = (
        "`predict` writes the first id, scores are others already, and of all that it writes "
        f"{_count(int(other.sum()))} would be another"
    )
    site = first_apart(experiment, experiment.batch, 0, 0, row, steps)
    return Parted(how, 0, row, largest, largest / size, 1e-2 * size, site)


def _hang_together(experiment: Experiment, seen: Seen, output: str) -> bool:
    """Whether one key that holds no labels moves the first scores of both."""
    for key in _others(experiment, seen):
        tensor = experiment.tensors[key]
        other = vary(tensor, torch.ones_like(tensor, dtype=torch.bool))
        try:
            batch = None if other is None else with_leaf(experiment.batch, key, other)
            after = None if batch is None else _seen(experiment, batch, output, seen.taught)
        except ExperimentError:
            continue
        if after is None or after.taught.scores.shape != seen.taught.scores.shape:
            continue
        one = gap(seen.taught.scores[:, 0], after.taught.scores[:, 0])[0]
        two = gap(seen.written.given[:, 0], after.written.given[:, 0])[0]
        if min(one, two) > 1e-4 * scale(seen.taught.scores):
            return True
    return False


def _others(experiment: Experiment, seen: Seen) -> Iterator[str]:
    hide = {mask.key for mask in experiment.layout.masks}
    for key, tensor in experiment.tensors.items():
        if key not in hide and tensor.ndim and _behind(tensor, seen.taught) is None:
            yield key
