"""Windows of numbers that overlap: a target whose first values are the input's last ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.compare import NOISES, gap
from probes.experiment import LOSS, Experiment, with_leaf
from probes.finding import ExperimentError
from probes.vary import vary

LEAST = 4  # samples, and places of an input, that an overlap is told by


@dataclass(frozen=True)
class Overlap:
    """The first `by` places of a target stand at the end of an input, in every sample looked at."""

    key: str
    label: str
    by: int
    samples: int


def windows(experiment: Experiment) -> Iterator[str]:
    """Keys that the loss alone looks at, of numbers along at least two places a sample."""
    for key in experiment.targets:
        tensor = experiment.tensors[key]
        if tensor.is_floating_point() and tensor.ndim in (2, 3) and tensor.shape[1] > 1:
            yield key


def overlaps(
    experiment: Experiment, batches: Sequence[Mapping[str, Tensor]], label: str
) -> Iterator[Overlap]:
    """Of each input that the output reads there, where the loss scores what it can copy."""
    inputs = [
        key
        for key, tensor in experiment.tensors.items()
        if key not in experiment.targets and tensor.is_floating_point() and tensor.ndim > 1
    ]
    for key in inputs if len(inputs) == 1 else ():  # of several, another may be what goes before
        pairs = [(each.get(key), each.get(label)) for each in batches]
        by = _by(pairs)
        if by and _is_copied(experiment, key, label, by):
            count = sum(len(one) for one, _ in pairs if one is not None)
            yield Overlap(key, label, by, count)


def _by(pairs: Sequence[tuple[Tensor | None, Tensor | None]]) -> int:
    """The one number of places that the windows overlap by in all batches; 0 without one."""
    found: set[int] | None = None
    firsts = []
    for past, future in pairs:
        if past is None or future is None or len(past) != len(future) or past.ndim < future.ndim:
            return 0
        if past.ndim not in (2, 3) or past.shape[1] < LEAST or future.shape[1] < 2:
            return 0
        longest = min(past.shape[1], future.shape[1]) - 1
        own = {by for by in range(1, longest + 1) if _agrees(past, future, by)}
        found = own if found is None else found & own
        firsts.append(future[:, 0].detach().flatten(1) if future.ndim > 2 else future[:, :1])
    if not found or sum(map(len, firsts)) < LEAST:
        return 0
    first = torch.cat(firsts)
    return min(found) if len(first.unique(dim=0)) > len(first) // 2 else 0


def _agrees(past: Tensor, future: Tensor, by: int) -> bool:
    last, first = past[:, -by:], future[:, :by]
    if last.ndim == first.ndim:
        return last.shape == first.shape and torch.equal(last, first.to(last.dtype))
    return any(torch.equal(each, first.to(each.dtype)) for each in last.unbind(-1))


def _is_copied(experiment: Experiment, key: str, label: str, by: int) -> bool:
    """Whether the loss asks the output's first place for what it reads in the input."""
    past, future = experiment.tensors[key], experiment.tensors[label]
    where = torch.zeros(past.shape[:2], dtype=torch.bool, device=past.device)
    where[:, -by] = True
    scored = torch.zeros(future.shape[:2], dtype=torch.bool, device=future.device)
    scored[:, 0] = True
    others = {key: vary(past, where), label: vary(future, scored)}
    limit = NOISES * experiment.evaluated.noise
    before, ran = experiment.evaluated.ran.outputs, {}
    for path, other in others.items():
        if other is None:
            return False
        try:
            ran[path] = experiment.evaluate(with_leaf(experiment.batch, path, other)).outputs
        except ExperimentError:
            return False
    if LOSS not in before or not gap(before[LOSS], ran[label][LOSS])[0] > limit:
        return False
    return any(
        name in ran[key] and gap(value[:, 0], ran[key][name][:, 0])[0] > limit
        for name, value in experiment.outputs.items()
        if value.shape[:2] == future.shape[:2]
    )
