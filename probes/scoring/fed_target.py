"""A decoder that is fed what it is asked for: each place of a target is read where it is scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.reading.alive import Alive, Shown, alive, gradients
from probes.scoring.wanted import asked
from probes.vary import vary

LEAST = 4  # places of a sequence
ROUNDING = 1e-5  # of the largest change: less is none
ALIKE = 0.999  # cosine of gradients that are the same


@dataclass(frozen=True)
class Fed:
    """A key that an output is scored against at its own place, and reads there, but not beyond.

    site: of the output. beside: the other sequence that it reads as a whole; None where it is that
    `predict` does without the key.
    """

    key: str
    site: str
    beside: str | None


def by_place(experiment: Experiment) -> Iterator[str]:
    """Keys of numbers or ids along a few places at least, but for masks."""
    masks = {each.key for each in experiment.layout.masks}
    for key, tensor in experiment.tensors.items():
        by_place = tensor.ndim in (2, 3) and tensor.shape[1] >= LEAST and key not in masks
        if by_place and len(tensor) == experiment.size and tensor.dtype is not torch.bool:
            yield key


def fed_targets(experiment: Experiment) -> Iterator[Fed]:
    """Of numbers and of ids by place, within the loss, whatever `predict` gives.

    Only of a model that has something else to tell it from: an autoencoder has nothing but what
    it is to give.
    """
    for key in by_place(experiment):
        apart = experiment.subject.predict is not None and key in experiment.targets
        others = [] if apart else _others(experiment, key)
        if not apart and not others:
            continue
        try:
            floats = experiment.tensors[key].is_floating_point()
            index = (_of_numbers if floats else _of_ids)(experiment, key)
            if index is None:
                continue
            beside = next((o for o in others if _is_read_at_once(experiment, o, index)), None)
            if apart or beside is not None:
                yield Fed(key, alive(experiment).shown[index].site, beside)
        except ExperimentError:
            continue


def _others(experiment: Experiment, key: str) -> list[str]:
    """Other sequences among the inputs: ids by place, or vectors by place."""
    masks = {each.key for each in experiment.layout.masks}
    return [
        name
        for name, tensor in experiment.tensors.items()
        if name not in {key, *masks, *experiment.targets}
        and tensor.ndim == (3 if tensor.is_floating_point() else 2)
        and tensor.dtype is not torch.bool
        and len(tensor) == experiment.size
        and tensor.shape[1] >= LEAST
    ]


def _of_numbers(experiment: Experiment, key: str) -> int | None:
    """Which tensor of those shown is scored against the numbers at its places, and reads them."""
    tensor = experiment.tensors[key]
    if not any(_fits(each.tensor, tensor) for each in alive(experiment).shown):
        return None
    leaf = tensor.detach().clone().requires_grad_(True)
    seen = alive(experiment, with_leaf(experiment.batch, key, leaf), picks=False)
    for each in seen.shown[::-1]:
        if not _fits(each.tensor, tensor):
            continue
        felt = seen.of_loss([each.tensor])[0]
        if felt is None or not bool(felt.any()):
            continue
        own = direct(seen, leaf, each.tensor, felt)
        parts = [felt] if felt.shape == tensor.shape else felt.unbind(-1)
        same = own is not None and any(_alike(own, -part) for part in parts)
        return _index(experiment, seen, each) if same and _is_read(each.tensor, leaf) else None
    return None


def _index(experiment: Experiment, seen: Alive, each: Shown) -> int | None:
    """Which of the tensors that are shown without the leaf it is: of its site the same, from last.

    What a module takes of the leaf itself is shown here alone.
    """

    def same(shown: tuple[Shown, ...]) -> list[int]:
        return [i for i, one in enumerate(shown) if (one.site, one.kind) == (each.site, each.kind)]

    here, there = same(seen.shown), same(alive(experiment).shown)
    back = len(here) - next(k for k, i in enumerate(here) if seen.shown[i] is each)
    return there[-back] if back <= len(there) else None


def _fits(value: Tensor, of: Tensor) -> bool:
    """Whether it has the places, and as many numbers each, or several where they have one."""
    if value.ndim not in (2, 3) or value.shape[:2] != of.shape[:2]:
        return False
    return value.shape == of.shape or (value.ndim == 3 and of.ndim == 2)


def direct(seen: Alive, leaf: Tensor, output: Tensor, felt: Tensor) -> Tensor | None:
    """The loss's gradient with respect to the key, but for what comes by way of the output."""
    whole = seen.of_loss([leaf])[0]
    way = gradients((output * felt).sum(), [leaf])[0]
    return None if whole is None else whole - (0 if way is None else way)


def _alike(one: Tensor, two: Tensor) -> bool:
    size = float(one.norm() * two.norm())
    return one.shape == two.shape and size > 0 and float((one * two).sum()) >= ALIKE * size


def _is_read(output: Tensor, leaf: Tensor) -> bool:
    """Whether the middle place reads the key there and before, and not after."""
    middle = leaf.shape[1] // 2
    weights = torch.linspace(0.5, 1.5, output[:, middle].numel(), dtype=output.dtype, device="cpu")
    weights = weights.to(output.device).view_as(output[:, middle])
    found = gradients((output[:, middle] * weights).sum(), [leaf])[0]
    return found is not None and _is_causal(found.flatten(2) if found.ndim > 2 else found, middle)


def _is_causal(moved: Tensor, place: int) -> bool:
    """Of (sample, place, ...) numbers: some there and before, none after."""
    felt = (moved != 0).flatten(2).any(2) if moved.ndim > 2 else moved != 0
    by_place = felt.any(0)
    before, later = by_place[:place], by_place[place + 1 :]
    return bool(by_place[place]) and bool(before.any()) and not bool(later.any())


def _of_ids(experiment: Experiment, key: str) -> int | None:
    """Which tensor is asked for the ids at its places, and reads them there, but none later."""
    ids = experiment.tensors[key]
    found = asked(experiment, tuple(ids.shape), int(ids.max())) if ids.ndim == 2 else None
    if found is None:
        return None
    middle = ids.shape[1] // 2
    wants = found.wants(key, "", ids)
    change = moved(experiment, key, found.index, middle) if wants.ahead == 0 else None
    if change is None or change.shape[:2] != ids.shape:
        return None
    by_place = (change > ROUNDING * change.max()).flatten(2).any(2).any(0)
    causal = bool(by_place[middle]) and bool(by_place[middle + 1 :].any())
    return found.index if causal and not bool(by_place[:middle].any()) else None


def moved(experiment: Experiment, key: str, index: int, place: int) -> Tensor | None:
    """How much other content at a place, or from one on, moves the tensor shown of that index."""
    tensor, shown = experiment.tensors[key], alive(experiment).shown
    where = torch.zeros(tensor.shape[:2], dtype=torch.bool, device=tensor.device)
    where[:, place] = True
    other = vary(tensor, where)
    if other is None:
        return None
    after = alive(experiment, with_leaf(experiment.batch, key, other), picks=False).shown
    if len(after) != len(shown) or after[index].tensor.shape != shown[index].tensor.shape:
        return None
    return (after[index].tensor - shown[index].tensor).detach().abs()


def _is_read_at_once(experiment: Experiment, key: str, index: int) -> bool:
    """Whether the first place of the tensor shown of that index reads the middle of the key."""
    change = moved(experiment, key, index, experiment.tensors[key].shape[1] // 2)
    return change is not None and change.ndim > 1 and bool(change[:, 0].any())
