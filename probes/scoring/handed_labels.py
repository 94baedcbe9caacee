"""Whether an output is what a key of labels is scored against: by who is handed its values."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.layout import Labels
from probes.reading.alive import Alive, alive, gradients
from probes.scoring.answers import scores

AGREES = 0.99  # of the integers that are asked for
Handed = tuple[Tensor, int]  # scores, and which of their axes holds the classes


def is_scored(experiment: Experiment, labels: Labels, name: str, rows: Tensor) -> bool:
    """Whether these labels are asked of this output, so far as the loss's code shows.

    rows: the output, its classes last. A loss of torch, or a pick by index, that takes the key's
    integers tells of what scores it takes them; these must have as many classes, and come from the
    output where its graph is at hand. Where nothing takes them, one label that is changed must
    move the gradient as a class does: up for one and down for others, at one place.
    """
    try:
        seen, known = alive(experiment), list(handed(experiment, labels))
        if known:
            fits = [one for one, axis in known if one.shape[axis] == rows.shape[-1]]
            return any(_comes_from(seen, one, experiment.outputs[name]) for one in fits)
        found = scores(experiment, labels)
    except ExperimentError:
        return False
    own = _shown(seen, experiment.outputs[name])
    if found.grad.shape[-1] != rows.shape[-1] or (own and not _has(own, found.shown.tensor)):
        return False
    moved = [each for each in found.answers if each.outputs]
    return bool(moved) and all(each.even and len(each.outputs) == 1 for each in moved)


def handed(experiment: Experiment, labels: Labels) -> Iterator[Handed]:
    """The scores that the key's integers are asked of, by losses of torch and picks by index."""
    values, seen = experiment.tensors[labels.key].cpu(), alive(experiment)
    for call in seen.classed:
        if _are_these(values, call.labels.cpu(), {labels.ignore, call.ignored}):
            yield call.given, call.axis
    for pick in seen.picks:
        own = pick.source.requires_grad and pick.index.ndim > 0
        if own and _are_these(values, pick.index.cpu(), {labels.ignore}):
            yield pick.source, pick.axis


def _are_these(values: Tensor, wanted: Tensor, ignored: set[int | None]) -> bool:
    """Whether the integers are the key's own in order, shifted by one, or without the ignored."""
    flat = wanted.flatten()
    asked = flat >= 0
    for none in ignored - {None}:
        asked &= flat != none
    if not bool(asked.any()):
        return False
    return any(
        float((each[asked] == flat[asked]).float().mean()) >= AGREES
        for each in _orders(values.long(), ignored)
        if len(each) == len(flat)
    )


def _orders(values: Tensor, ignored: set[int | None]) -> Iterator[Tensor]:
    yield values.flatten()
    yield values[
        ~torch.isin(
            values, torch.tensor([n for n in ignored if n is not None], device="cpu").to(values)
        )
    ]
    if values.ndim > 1:
        yield values.transpose(0, 1).flatten()
        yield values[..., 1:].flatten()
        yield values[..., :-1].flatten()
        last = torch.full_like(values[..., :1], -100)
        yield torch.cat([values[..., 1:], last], -1).flatten()  # as transformers' models shift


def _comes_from(seen: Alive, scores: Tensor, output: Tensor) -> bool:
    """Whether the scores depend on what the output was in that pass; True where that is unknown."""
    own = _shown(seen, output)
    if not own or not scores.requires_grad:
        return True
    chance = torch.Generator().manual_seed(0)
    ways = torch.randn(scores.shape, generator=chance, device="cpu").to(scores)
    kept = scores.nan_to_num(0, 0, 0) * ways
    return any(grad is not None and bool(grad.any()) for grad in gradients(kept.sum(), own))


def _shown(seen: Alive, output: Tensor) -> list[Tensor]:
    """The output among what modules gave in that pass."""
    tensors = [each.tensor for each in seen.shown]
    same = [t for t in tensors if t.shape == output.shape]
    return [t for t in same if torch.equal(t.detach().to(output), output)]


def _has(tensors: list[Tensor], one: Tensor) -> bool:
    return any(each is one for each in tensors)
