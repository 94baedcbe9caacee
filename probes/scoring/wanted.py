"""Which id each output place is asked for, by the loss's gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.layout import Reads
from probes.masking.trailing import trailing
from probes.reading.alive import alive
from probes.reading.causal import Causal, causal, cut_off
from probes.scoring.answers import SMALL, has_classes_first, lines_of
from probes.scoring.summaries import by_summary

SHARE = 0.99  # of the ids asked for that must agree
REACH = 3  # places either way


@dataclass(frozen=True)
class Wanted:
    """An output of classes by place, and a key of ids that it may be asked for.

    ids: (sample, place) of the key. asked: (sample, place) the class whose score the loss wants to
    rise most. scored: (sample, place) whether it looks there at all.
    """

    key: str
    output: str
    ids: Tensor
    asked: Tensor
    scored: Tensor

    def agreement(self, by: int) -> float:
        """The share of scored places that are asked for the id so many places on.

        Of places where an id stands: the last label of a row may go beyond its ids.
        """
        low, high = max(0, -by), min(self.asked.shape[1], self.ids.shape[1] - by)
        if high - low < 2:
            return 0.0
        pads = trailing(self.ids)
        look = self.scored[:, low:high]
        if pads is not None:
            look = look & ~pads[:, low + by : high + by]
        same = self.asked[:, low:high] == self.ids[:, low + by : high + by]
        return float(same[look].float().mean()) if bool(look.any()) else 0.0

    @property
    def ahead(self) -> int | None:
        """How many places on the id stands that is asked for; None where that is not clear."""
        found = [by for by in range(-REACH, REACH + 1) if self.agreement(by) >= SHARE]
        return found[0] if len(found) == 1 else None


def wanted(experiment: Experiment) -> Iterator[Wanted]:
    """Every key of ids by place with the output of the same places that the loss wants ids of."""
    if "wanted" not in experiment.memo:
        experiment.memo["wanted"] = list(_all(experiment))
    yield from experiment.memo["wanted"]


def _all(experiment: Experiment) -> Iterator[Wanted]:
    for key, ids in experiment.tensors.items():
        if not is_by_place(ids):
            continue
        for width in (ids.shape[1], ids.shape[1] - 1):
            found = asked(experiment, (len(ids), width), _largest(ids))
            name = None if found is None else name_of_lines(experiment, found.lines)
            if found is not None and name is not None:
                yield found.wants(key, name, ids)
                break


def is_by_place(ids: Tensor) -> bool:
    """Whether it holds ids by sample and place."""
    whole = not ids.is_floating_point() and ids.dtype is not torch.bool
    return ids.ndim == 2 and whole and ids.numel() >= 8 and ids.shape[1] > 1


def _largest(ids: Tensor) -> int:
    """The largest id that may be asked for: what only the first place holds may be no class."""
    return int(ids[:, 1:].max())


@dataclass(frozen=True)
class Asked:
    """The tensor of that index among those shown; lines: (sample, place, class) its gradient."""

    index: int
    lines: Tensor

    def wants(self, key: str, name: str, ids: Tensor) -> Wanted:
        """Laid beside a key of ids of the same places."""
        size = self.lines.abs().amax(-1)
        return Wanted(key, name, ids, self.lines.argmin(-1), size > SMALL * size.max())


def asked(experiment: Experiment, shape: tuple[int, ...], largest: int) -> Asked | None:
    """What a loss of classes looks at by place; None without a gradient of that form."""
    seen = alive(experiment)
    own = {id(each) for each in seen.given}
    fits = [i for i, each in enumerate(seen.shown) if lines_of(each.tensor, shape) is not None]
    for index in sorted(fits, key=lambda i: id(seen.shown[i]) in own)[::-1]:
        each = seen.shown[index]
        grad = seen.of_loss([each.tensor])[0]
        first = grad is not None and has_classes_first(grad, shape)
        lines = None if grad is None else lines_of(grad, shape, first)
        if lines is None or lines.shape[-1] <= max(2, largest) or not bool(lines.any()):
            continue
        if _is_of_classes(lines):
            return Asked(index, lines)
    return None


def _is_of_classes(lines: Tensor) -> bool:
    """Whether each place's gradient sums to nothing, as a softmax's, or is of one class alone."""
    rows = lines[lines.abs().amax(-1) > SMALL * lines.abs().max()]
    even = rows.sum(-1).abs() <= 1e-3 * rows.abs().sum(-1)
    single = (rows != 0).sum(-1) == 1
    return bool((even | single).all())


def name_of_lines(experiment: Experiment, lines: Tensor) -> str | None:
    """How the output of that shape is called among those of the subject."""
    for name, value in experiment.outputs.items():
        own = lines_of(value, (lines.shape[0], lines.shape[1])) if value.ndim > 1 else None
        if own is not None and own.shape == lines.shape and value.is_floating_point():
            return name
    return None


def aheads(grad: Tensor, ids: Tensor, width: int) -> dict[int, float]:
    """Places on to the share of ids there that a gradient of so many places asks for most.

    Only of places that it asks of at all; nothing where it is none of (sample, place, class).
    """
    lines = lines_of(grad, (len(ids), width))
    if lines is None or not bool(lines.any()):
        return {}
    size = lines.abs().amax(-1)
    one = Wanted("", "", ids, lines.argmin(-1), size > SMALL * size.max())
    return {by: one.agreement(by) for by in range(-REACH, REACH + 1)}


def ahead(experiment: Experiment) -> Iterator[Causal]:
    """Outputs that are asked for an id that stands after their own place: they may not read it."""
    for each in wanted(experiment):
        by = each.ahead
        if by is None or by <= 0:
            continue
        whole = experiment.outputs[each.output].shape[:2] == each.ids.shape
        short = 0 if whole else cut_off(experiment, each.output, each.key)
        if whole or short:
            line = f"reads=({Reads(each.output, each.key, rule='causal')!r},)"
            yield Causal(each.output, each.key, 2, 0, line, short)
    for each in _cut_after(experiment):
        line = f"reads=({Reads(each.output, each.key, rule='causal')!r},)"
        yield Causal(each.output, each.key, 2, 0, line, 1)


def _cut_after(experiment: Experiment) -> list[Wanted]:
    """Outputs that are all but the last place of what the model gives, asked for the next ids."""
    if "wanted, cut after" not in experiment.memo:
        experiment.memo["wanted, cut after"] = list(_all_cut_after(experiment))
    known: list[Wanted] = experiment.memo["wanted, cut after"]
    return known


def _all_cut_after(experiment: Experiment) -> Iterator[Wanted]:
    """Where something later is read, but for what comes by one vector a sample.

    Nor is it where vectors are looked up for the same places of which later ones are not read, as
    by a decoder beside an encoder of the same ids. Whether the last entry of the key is read tells
    nothing of those, as it does of what is cut before the model.
    """
    for key, ids in experiment.tensors.items():
        found = _asked_whole(experiment, ids) if is_by_place(ids) else None
        if found is None:
            continue
        seen = alive(experiment)
        given = seen.shown[found.index].tensor
        name = _all_but_the_last(experiment, given) if given.shape[:2] == ids.shape else None
        whole = found.wants(key, name or "", ids)
        by = whole.ahead
        if name is None or by is None or by <= 0 or bool(whole.scored[:, -1].any()):
            continue
        rows = [one.out for one in seen.looked_up if one.out.requires_grad and one.out.ndim == 3]
        rows = [one for one in rows if one.shape[:2] == ids.shape]
        early = given[:, : given.shape[1] // 2]
        if rows and all(by_summary(experiment, seen, early, one) is False for one in rows):
            yield replace(whole, asked=whole.asked[:, :-1], scored=whole.scored[:, :-1])


def _asked_whole(experiment: Experiment, ids: Tensor) -> Asked | None:
    short = (len(ids), ids.shape[1] - 1)
    if not any(tuple(each.shape[:2]) == short for each in experiment.outputs.values()):
        return None
    return asked(experiment, (len(ids), ids.shape[1]), _largest(ids))


def _all_but_the_last(experiment: Experiment, given: Tensor) -> str | None:
    """The output that is what was given, without its last place."""
    cut = given[:, :-1].detach()
    for name, value in experiment.outputs.items():
        alike = value.shape == cut.shape and value.is_floating_point()
        if alike and torch.allclose(cut, value, 1e-3, 1e-5):
            return name
    return None


def looked_at(experiment: Experiment, each: Causal) -> Tensor | None:
    """Which places of the output the loss looks at; None where that is not known of all."""
    lead = each.lead(tuple(experiment.tensors[each.key].shape))
    known = (*wanted(experiment), *(_cut_after(experiment) if each.short else ()))
    found = [one.scored for one in known if one.output == each.output]
    return next((scored for scored in found if tuple(scored.shape) == lead), None)


def causal_or_ahead(experiment: Experiment) -> list[Causal]:
    """Outputs declared or called causal; else those that are asked for what comes later."""
    return list(causal(experiment)) or list(ahead(experiment))
