"""Outputs by place that are scored against numbers that stand at later places of an input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.layout import Reads
from probes.reading.alive import Alive, alive, gradients
from probes.reading.causal import Causal
from probes.scoring.fed_target import ALIKE, by_place, direct
from probes.scoring.summaries import by_summary

REACH = 3  # places on


@dataclass(frozen=True, eq=False)
class Scored:
    """A tensor by place that is scored against numbers `by` places on.

    seen, leaf: the pass in which that was found, and the numbers of the key in it.
    """

    by: int
    tensor: Tensor
    seen: Alive
    leaf: Tensor


def numbers_ahead(experiment: Experiment) -> list[Causal]:
    """Outputs that are asked for numbers after their own place: they may not read them.

    By the loss's gradient with respect to the numbers that does not come by way of the output: it
    is the output's own, turned round, so many places on. Where what is wanted is a key of its own,
    an input may hold the same numbers further on. Left out is what reads them by way of one vector
    a sample alone, as a variational model does.
    """
    if "numbers ahead" not in experiment.memo:
        experiment.memo["numbers ahead"] = list(_all(experiment))
    found: list[Causal] = experiment.memo["numbers ahead"]
    return found


def _all(experiment: Experiment) -> Iterator[Causal]:
    floats = [key for key in by_place(experiment) if experiment.tensors[key].is_floating_point()]
    for key in floats:
        try:
            found = _scored(experiment, key) if any(_fits(experiment, key)) else None
            name = None if found is None else name_of(experiment, found.tensor)
            if found is None or name is None:
                continue
            held = [(key, found)] if found.by else _held(experiment, key, floats, found)
            for source, each in held:
                if not _by_summary(experiment, each):
                    line = f"reads=({Reads(name, source, rule='causal')!r},)"
                    short = each.leaf.shape[1] - each.tensor.shape[1]
                    yield Causal(name, source, 2, 1 - each.by, line, short)
        except ExperimentError:
            continue


def scored_here(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """Keys of numbers, and the output that is scored against each at its own place.

    One of several that the model gives may be, such as the mean beside a spread.
    """
    for key in by_place(experiment):
        if not experiment.tensors[key].is_floating_point() or not any(_fits(experiment, key)):
            continue
        try:
            found = _here(experiment, key)
        except ExperimentError:
            continue
        name = None if found is None else name_of(experiment, found)
        if name is not None:
            yield key, name


def _here(experiment: Experiment, key: str) -> Tensor | None:
    seen, leaf = _passed(experiment, key)
    own, known = beside_outputs(seen, leaf)
    for tensor, grad in known:
        if _is_of(tensor, leaf) and tensor.shape[1] == leaf.shape[1]:
            parts = [grad] if grad.shape == leaf.shape else list(grad.unbind(-1))
            if own is not None and [
                by for by in range(REACH + 1) if _is_so_far(own, parts, by)
            ] == [0]:
                return tensor
    return None


def beside_outputs(seen: Alive, leaf: Tensor) -> tuple[Tensor | None, list[tuple[Tensor, Tensor]]]:
    """The loss's gradient with respect to numbers, but for what comes by way of the outputs.

    With it the outputs that the loss looks at, each with its own gradient.
    """
    given = [each.tensor for each in seen.given]
    felt = seen.of_loss([leaf, *given])
    known = [(one, two) for one, two in zip(given, felt[1:], strict=True) if two is not None]
    if felt[0] is None or not known:
        return None, []
    by_way = gradients(torch.stack([(one * two).sum() for one, two in known]).sum(), [leaf])[0]
    return felt[0] if by_way is None else felt[0] - by_way, known


def _fits(experiment: Experiment, key: str) -> Iterator[bool]:
    wanted = experiment.tensors[key]
    return (_is_of(value, wanted) for value in experiment.outputs.values())


def _is_of(value: Tensor, wanted: Tensor) -> bool:
    """Whether it has the places, but for the last few, and as many numbers each, or several."""
    if value.ndim not in (2, 3) or len(value) != len(wanted) or not value.is_floating_point():
        return False
    if not 0 <= wanted.shape[1] - value.shape[1] <= REACH:
        return False
    return value.shape[2:] == wanted.shape[2:] or (value.ndim == 3 and wanted.ndim == 2)


def _passed(experiment: Experiment, key: str) -> tuple[Alive, Tensor]:
    """The loss with all that led to it, and the numbers of a key, which have a gradient in it."""
    leaf = experiment.tensors[key].detach().clone().requires_grad_(True)
    return alive(experiment, with_leaf(experiment.batch, key, leaf), picks=False), leaf


def _scored(experiment: Experiment, key: str) -> Scored | None:
    wanted = experiment.tensors[key]
    seen, leaf = _passed(experiment, key)
    for each in seen.shown[::-1]:
        felt = seen.of_loss([each.tensor])[0] if _is_of(each.tensor, wanted) else None
        if felt is None or not bool(felt.any()):
            continue
        own = direct(seen, leaf, each.tensor, felt)
        parts = [felt] if felt.shape[2:] == wanted.shape[2:] else felt.unbind(-1)
        fit = [by for by in range(REACH + 1) if own is not None and _is_so_far(own, parts, by)]
        return Scored(fit[0], each.tensor, seen, leaf) if len(fit) == 1 else None
    return None


def _is_so_far(own: Tensor, parts: list[Tensor] | tuple[Tensor, ...], by: int) -> bool:
    """Whether one of the gradients, turned round and moved so many places on, is this one."""
    for part in parts:
        count = min(part.shape[1], own.shape[1] - by)
        moved = torch.zeros_like(own)
        moved[:, by : by + count] = -part[:, :count]
        size = float(own.norm() * moved.norm())
        if size > 0 and float((own * moved).sum()) >= ALIKE * size:
            return True
    return False


def name_of(experiment: Experiment, tensor: Tensor) -> str | None:
    """How the output of these numbers is called among those of the subject."""
    return next((n for n, each in experiment.outputs.items() if _is_alike(each, tensor)), None)


def _held(
    experiment: Experiment, key: str, floats: list[str], found: Scored
) -> Iterator[tuple[str, Scored]]:
    """Other keys that hold the numbers of this one, so many places on."""
    wanted = experiment.tensors[key]
    for other in floats:
        values = experiment.tensors[other]
        if other == key or values.shape != wanted.shape or torch.equal(values, wanted):
            continue
        for by in range(1, REACH + 1):
            if torch.equal(values[:, by:], wanted[:, :-by]):
                seen, leaf = _passed(experiment, other)
                same = (t.tensor for t in seen.shown if _is_alike(t.tensor, found.tensor))
                yield from ((other, Scored(by, tensor, seen, leaf)) for tensor in list(same)[-1:])
                break


def _is_alike(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.allclose(one.detach(), two.detach(), 1e-3, 1e-5)


def _by_summary(experiment: Experiment, each: Scored) -> bool:
    """Whether what an early place reads of what comes later comes by one vector a sample alone."""
    early = each.tensor[:, : each.tensor.shape[1] // 2]
    return bool(by_summary(experiment, each.seen, early, each.leaf, each.by - 1))
