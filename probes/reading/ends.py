"""The first and the last visible id of samples: what they tell of labels, and who reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.compare import NOISES, everywhere
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.masking.hidden import hidden
from probes.masking.visible import differ
from probes.reading.rows import looked

PAIRS = 30  # of samples with the same id there, at least
ENDS = {"last": -1, "first": 1}


@dataclass(frozen=True, slots=True)
class End:
    """What pairs of samples with the same id at one end have in common, over the first batches.

    agree: share of them with the same label. beside: the same of the id next to it. all: of all
    pairs. same: share of samples whose label is the id itself.
    """

    key: str
    end: str
    labels: str
    agree: float
    beside: float
    all: float
    same: float


def ends(experiment: Experiment) -> Iterator[End]:
    """Of every key of ids under a mask, and every label that is one whole number a sample."""
    keys = [
        key
        for key in dict.fromkeys(each.key for each in experiment.masks)
        if _is_ids(experiment.tensors.get(key)) and key not in experiment.targets
    ]
    wanted = [
        key
        for key in (experiment.targets if keys else ())
        if experiment.tensors[key].ndim == 1 and not experiment.tensors[key].is_floating_point()
    ]
    if not keys or not wanted:
        return
    batches = list(looked(experiment))
    for key in keys:
        for end in ENDS:
            for labels in wanted:
                found = _end(experiment, batches, key, end, labels)
                if found is not None:
                    yield found


def is_unread(experiment: Experiment, end: End) -> bool:
    """Whether nothing moves with other samples' ids at that end, and something with those beside.

    Those of the batch are handed round, so that each occurs there already.
    """
    try:
        return not _moves(experiment, end, 0) and _moves(experiment, end, 1)
    except ExperimentError:
        return False


def _moves(experiment: Experiment, end: End, beside: int) -> bool:
    ids = experiment.tensors[end.key]
    keep = _keep(experiment, experiment.tensors, end.key)
    if keep is None:
        return True
    at = _at(keep, end.end, beside)
    there = ids.gather(1, at)
    turned = [there.roll(by, 0) for by in range(1, len(ids))]
    other = ids.scatter(1, at, max(turned, key=lambda each: int((each != there).sum())))
    if torch.equal(other, ids):
        raise ExperimentError(f"`{end.key}` holds one id there")
    ran, before = (
        experiment.evaluate(with_leaf(experiment.batch, end.key, other)),
        experiment.evaluated,
    )
    return differ(before.ran, ran, everywhere, NOISES * before.noise)


def _is_ids(tensor: Tensor | None) -> bool:
    whole = tensor is not None and tensor.dtype in (torch.int64, torch.int32)
    return whole and tensor is not None and tensor.ndim == 2 and tensor.shape[1] > 2


def _keep(experiment: Experiment, tensors: dict[str, Tensor], key: str) -> Tensor | None:
    """(sample, place), true where all masks let see; None where a sample has fewer than two."""
    keep = torch.ones_like(tensors[key], dtype=torch.bool)
    for each in hidden(experiment.layout, experiment.declared, tensors):
        if each.key == key and each.keep.shape == keep.shape:
            keep = keep & each.keep
    return keep if bool((keep.sum(1) > 1).all()) else None


def _at(keep: Tensor, end: str, beside: int) -> Tensor:
    """(sample, 1) which place stands at the end, or so many beside it."""
    places = keep * torch.arange(1, keep.shape[1] + 1, device=keep.device)
    if end == "last":
        return places.topk(beside + 1, 1).indices[:, -1:]
    places = places.masked_fill(~keep, keep.shape[1] + 1)
    return places.topk(beside + 1, 1, largest=False).indices[:, -1:]


def _end(
    experiment: Experiment, batches: list[dict[str, Tensor]], key: str, end: str, labels: str
) -> End | None:
    found: list[list[Tensor]] = [[], [], []]
    for tensors in batches:
        if key not in tensors or labels not in tensors or len(tensors[labels]) != len(tensors[key]):
            return None
        keep = _keep(experiment, tensors, key)
        if keep is None:
            return None
        for beside in (0, 1):
            found[beside].append(tensors[key].gather(1, _at(keep, end, beside))[:, 0])
        found[2].append(tensors[labels])
    there, next_to, wanted = (torch.cat(each) for each in found)
    counts = _pairs(there, wanted), _pairs(next_to, wanted)
    if counts[0][1] < PAIRS or len(there.unique()) < 3:
        return None
    every = _pairs(torch.zeros_like(there), wanted)
    agree, next_one, anyhow = (alike / max(1, pairs) for alike, pairs in (*counts, every))
    same = float((there == wanted).float().mean())
    return End(key, end, labels, agree, next_one, anyhow, same)


def _pairs(ids: Tensor, wanted: Tensor) -> tuple[int, int]:
    """How many pairs of samples with the same id have the same label, and how many there are."""
    alike = torch.stack([ids, wanted.to(ids.dtype)], 1).unique(dim=0, return_counts=True)[1]
    every = ids.unique(return_counts=True)[1]
    return int((alike * (alike - 1)).sum()) // 2, int((every * (every - 1)).sum()) // 2
