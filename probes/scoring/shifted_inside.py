"""Ids that are moved one place on behind a start by the subject's own code, and read both ways."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.layout import Reads
from probes.reading.alive import alive, gradients
from probes.reading.causal import Causal
from probes.reading.indexing import Pick
from probes.scoring.answers import lines_of
from probes.scoring.wanted import asked, is_by_place, name_of_lines


def shifted_inside(experiment: Experiment) -> list[Causal]:
    """Outputs asked for ids of a key at their own places, of which they may read those before.

    That they are fed these one place later is seen where vectors are looked up for them; that they
    read on among those vectors, by their gradient. What an encoder of the same ids tells besides is
    not looked at.
    """
    if "shifted inside" not in experiment.memo:
        experiment.memo["shifted inside"] = list(_all(experiment))
    found: list[Causal] = experiment.memo["shifted inside"]
    return found


def _all(experiment: Experiment) -> Iterator[Causal]:
    for key, ids in experiment.tensors.items():
        seen = alive(experiment) if is_by_place(ids) and ids.shape[1] > 2 else None
        moved = [] if seen is None else [one for one in seen.looked_up if _is_moved(one, ids)]
        found = asked(experiment, tuple(ids.shape), int(ids.max())) if moved else None
        name = None if found is None else name_of_lines(experiment, found.lines)
        if seen is None or found is None or name is None:
            continue
        if found.wants(key, name, ids).ahead == 0 and any(
            _reads_on(seen.shown[found.index].tensor, one, ids) for one in moved
        ):
            line = f"reads=({Reads(name, key, rule='before')!r},)"
            yield Causal(name, key, 2, 1, line)


def _is_moved(one: Pick, ids: Tensor) -> bool:
    """Whether vectors are looked up for the ids one place later, behind something else."""
    index = one.index
    if index.shape != ids.shape or not one.out.requires_grad:
        return False
    return torch.equal(index[:, 1:], ids[:, :-1]) and not torch.equal(index, ids)


def _reads_on(given: Tensor, one: Pick, ids: Tensor) -> bool:
    """Whether the first half of the output moves with vectors that stand after it."""
    lines = lines_of(given, tuple(ids.shape))
    if lines is None:
        return False
    early = lines[:, : ids.shape[1] // 2]
    weights = torch.linspace(0.5, 1.5, early.numel(), dtype=torch.float64, device="cpu").cos() + 0.3
    weighted = early.flatten() * weights.to(early.device, early.dtype)
    felt = gradients(weighted.sum(), [one.out])[0]
    return felt is not None and bool(felt[:, ids.shape[1] // 2 :].any())
