"""Samples that look the same to a model, whatever its weights, though their inputs differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor, nn

from overfit.lost import lost_between
from overfit.targets import read_targets
from probes.batch import map_leaves
from probes.reading.lost import Lost
from probes.seeding import kept_random_state
from probes.subject import Batch, Subject

DRAWS = 2
Place = tuple[int, int]  # of a sample: its batch, and its row there


@dataclass(frozen=True, slots=True)
class Alike:
    """Sample -> the first sample that it cannot be told from. lost: where what differs is lost."""

    firsts: Mapping[Place, Place] = field(default_factory=dict)
    lost: Lost | None = None


def alike(subject: Subject, batches: Sequence[Batch], keys: Sequence[str]) -> Alike:
    """Samples whose scores are equal to the bit under other weights, drawn anew and again.

    None where all samples are: then the model is blind. keys: of the inputs. The weights, modes
    and random states of the subject are as before.
    """
    seen: dict[Place, list[bytes]] = {}
    with _other_weights(subject.model) as draw:
        for number in range(DRAWS):
            draw(number)
            for place, scores in _scores(subject, batches):
                seen.setdefault(place, []).append(scores)
        firsts: dict[tuple[bytes, ...], Place] = {}
        found = {place: firsts.setdefault(tuple(each), place) for place, each in seen.items()}
        same = {place: first for place, first in found.items() if place != first}
        if len(firsts) < 2 or not same:
            return Alike()
        return Alike(same, _lost(subject, batches, keys, same))


def _scores(subject: Subject, batches: Sequence[Batch]) -> Iterator[tuple[Place, bytes]]:
    """Every sample's scores, as their digest: those of a vocabulary are many."""
    for target in read_targets(subject, batches).found:
        for number, piece in enumerate(target.pieces):
            if piece.scores is None or not piece.by_sample:
                continue
            for row, scores in enumerate(piece.scores.detach().cpu().contiguous()):
                held = scores.flatten().view(torch.uint8).numpy()
                yield (number, row), blake2b(held, digest_size=16).digest()


@contextmanager
def _other_weights(model: nn.Module) -> Iterator[_Draw]:
    """Weights can be drawn anew inside; after it all is as before."""
    before = [(each, each.detach().clone()) for each in model.parameters()]
    try:
        with kept_random_state():
            yield _Draw([each for each, _ in before if each.is_floating_point()])
    finally:
        with torch.no_grad():
            for each, value in before:
                each.copy_(value)


class _Draw:
    """Draws every parameter anew, of the size that the numbers in it had."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._sizes = [(each, _size(each)) for each in parameters]

    def __call__(self, seed: int) -> None:
        torch.manual_seed(seed)
        with torch.no_grad():
            for each, size in self._sizes:
                each.copy_(torch.randn(each.shape, device="cpu") * size)


def _size(parameter: Tensor) -> float:
    rms = float(parameter.detach().float().square().mean().sqrt()) if parameter.numel() else 0.0
    return rms if math.isfinite(rms) and rms > 0 else 0.1


def _lost(
    subject: Subject, batches: Sequence[Batch], keys: Sequence[str], same: Mapping[Place, Place]
) -> Lost | None:
    """Where two samples of one batch become the same; None where no two stand in one."""
    pair = next(((one, two) for one, two in same.items() if one[0] == two[0]), None)
    if pair is None:
        return None
    (number, row), (_, first) = pair

    def exchanged(key: str, leaf: object) -> object:
        if key not in keys or not isinstance(leaf, Tensor):
            return leaf
        changed = leaf.clone()
        changed[row] = leaf[first]
        return changed

    batch = batches[number]
    return lost_between(subject, batch, map_leaves(batch, exchanged))
