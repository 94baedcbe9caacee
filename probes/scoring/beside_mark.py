"""Labels of what is masked, beside labels of what is not: the model reads the latter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.masking.trailing import trailing
from probes.reading.alive import Alive, alive
from probes.reading.rows import looked
from probes.scoring.answers import lines_of
from probes.scoring.wanted import SHARE, Asked, Wanted, asked, is_by_place, name_of_lines

FEWEST = 3  # places that hold the mark
HEAVY = 0.5  # of what a masked place weighs, the least that a copied one does
APART = 4.0  # of what chance makes of shares of rows that are masked, at one rate for all
OWN = 2.0  # times as far as others does an output move with the id at its own place
AUTOREGRESSIVE = 0.9  # of the ids asked for that a decoder is fed a place later


@dataclass(frozen=True, eq=False)
class BesideMark:
    """An output that is asked for the ids of a key, and for what one id hides, in one call.

    mark: that id. copied, masked: how many scored places are asked for the id that the model reads
    there, and how many hold the mark. line: of the call, None where the loss is none of torch's.
    """

    key: str
    output: str
    mark: int
    copied: int
    masked: int
    line: str | None

    @property
    def share(self) -> float:
        """Of scored places, those that are copied."""
        return self.copied / (self.copied + self.masked)


def beside_marks(experiment: Experiment) -> Iterator[BesideMark]:
    """At most one an output.

    The ids are those of the batch, or what a module is given in their place, as where the loss's
    own code masks them; the mark may be an id for which there is no class. Left out are what is
    asked of a decoder that is fed it a place later, and of a bottleneck, of which all places move
    alike; what weighs copied places less on purpose; and what is masked at another rate by row, as
    in the diffusion of ids, of which all places are to be told.
    """
    if getattr(getattr(experiment.subject.model, "config", None), "is_encoder_decoder", False):
        return
    seen, said = alive(experiment), set[str]()
    for key, ids in experiment.tensors.items():
        found = asked(experiment, tuple(ids.shape), 0) if is_by_place(ids) else None
        name = None if found is None else name_of_lines(experiment, found.lines)
        if found is None or name is None or name in said:
            continue
        told = (_told(experiment, seen, found, name, key, each) for each in _read(seen, ids))
        for each in [each for each in told if each is not None][:1]:
            said.add(each.output)
            yield each


def _read(seen: Alive, ids: Tensor) -> Iterator[Tensor]:
    """The ids, and what modules are given that is these but for one value."""
    yield ids
    for fed in seen.fed:
        each = fed.to(ids.device)
        if each.shape == ids.shape and not each.is_floating_point():
            other = each[each != ids].unique()
            if len(other) == 1:
                yield each


def _told(
    experiment: Experiment, seen: Alive, found: Asked, name: str, key: str, ids: Tensor
) -> BesideMark | None:
    one, pads = found.wants(key, name, ids), trailing(ids)
    scored = one.scored if pads is None else one.scored & ~pads
    copied, masked = scored & (one.asked == ids), scored & (one.asked != ids)
    marks, hidden = ids[masked].unique(), one.asked[masked]
    if len(marks) != 1 or len(hidden) < FEWEST or int(copied.sum()) >= SHARE * int(scored.sum()):
        return None
    mark = int(marks)
    if bool((one.asked[scored] == mark).any()) or len(hidden.unique()) < 2:
        return None
    if len(one.asked[copied].unique()) < 2 or _is_fed(experiment, seen, one):
        return None
    calls = [each for each in seen.classed if each.kind == "class"]
    whole = [each for each in calls if int(each.counted.sum()) >= int(scored.sum())]
    if (calls and not whole) or not _weighs(experiment, found.lines, one, copied, masked):
        return None
    if _is_of_every_rate(experiment, key, mark, ids) or not _reads_own(experiment, one, copied):
        return None
    line = whole[-1].line if whole else None
    return BesideMark(key, name, mark, int(copied.sum()), len(hidden), line)


def _is_fed(experiment: Experiment, seen: Alive, one: Wanted) -> bool:
    """Whether anything that the model may read is what is asked for, a place later."""
    look = one.scored[:, 1:]
    for each in (*experiment.tensors.values(), *seen.fed):
        if each.shape == one.ids.shape and not each.is_floating_point():
            same = each.to(one.asked.device)[:, 1:] == one.asked[:, :-1]
            if bool(look.any()) and float(same[look].float().mean()) >= AUTOREGRESSIVE:
                return True
    return False


def _weighs(
    experiment: Experiment, lines: Tensor, one: Wanted, copied: Tensor, masked: Tensor
) -> bool:
    """Whether copied places weigh as much in the loss as masked ones do.

    The gradient of a class that is asked for is its weight, times what its share lacks of 1.
    """
    slope = -lines.gather(-1, one.asked[..., None])[..., 0]
    if bool((lines.sum(-1).abs() <= 1e-3 * lines.abs().sum(-1)).all()):  # of scores, not of logs
        scores = lines_of(experiment.outputs[one.output], tuple(one.ids.shape))
        if scores is None:
            return False
        right = scores.softmax(-1).gather(-1, one.asked[..., None])[..., 0]
        slope = slope / (1 - right).clamp(min=1e-4)
    return bool(slope[copied].median() >= HEAVY * slope[masked].median())


def _is_of_every_rate(experiment: Experiment, key: str, mark: int, ids: Tensor) -> bool:
    """Whether rows of the first batches are masked at rates further apart than chance makes them.

    Of ids that are masked on the way, of these alone.
    """
    batches = [each[key] for each in looked(experiment) if key in each and each[key].ndim == 2]
    parts = [_counts(each, mark) for each in batches if bool((each == mark).any())]
    count, among = (torch.cat(part) for part in zip(*(parts or [_counts(ids, mark)]), strict=True))
    rate = float(count.sum() / among.sum())
    chance = (among * rate * (1 - rate)).clamp(min=1e-6)
    return bool(((count - among * rate).square() / chance).mean() > APART)


def _counts(ids: Tensor, mark: int) -> tuple[Tensor, Tensor]:
    """(row,) how many places hold the mark, and how many there are without padding."""
    pads = trailing(ids)
    real = torch.ones_like(ids, dtype=torch.bool) if pads is None else ~pads
    return ((ids == mark) & real).sum(1).double(), real.sum(1).double()


def _reads_own(experiment: Experiment, one: Wanted, copied: Tensor) -> bool:
    """Whether an output moves with the id at its own place, and further than at other places."""
    rows = copied.any(1).nonzero().flatten()
    at = copied[rows].int().argmax(1)
    ids = experiment.tensors[one.key].clone()
    known = one.asked[copied].unique()
    ids[rows, at] = known[(torch.searchsorted(known, ids[rows, at]) + 1) % len(known)].to(ids)
    try:
        ran = experiment.evaluate(with_leaf(experiment.batch, one.key, ids)).outputs
    except ExperimentError:
        return False
    before = experiment.outputs[one.output]
    if one.output not in ran or ran[one.output].shape != before.shape:
        return False
    lines = lines_of(ran[one.output] - before, tuple(ids.shape))
    if lines is None:
        return False
    moved = lines.abs().sum(-1)[rows].double()
    own = moved.gather(1, at[:, None]).squeeze(1)
    others = (moved.sum(1) - own) / (ids.shape[1] - 1)
    return bool(own.mean() > OWN * others.mean())
