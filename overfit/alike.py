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
from probes.batch import leaves, map_leaves
from probes.reading.lost import Lost
from probes.seeding import kept_random_state
from probes.subject import Batch, Subject

DRAWS = 2
OF_NUMBERS = 4  # draws, where what is scored are numbers: of one that is cut at 0 half are alike
Place = tuple[int, int]  # of a sample: its batch, and its row there


@dataclass(frozen=True, slots=True)
class Alike:
    """Sample -> the first sample that it cannot be told from. lost: where what differs is lost."""

    firsts: Mapping[Place, Place] = field(default_factory=dict)
    lost: Lost | None = None


def alike(subject: Subject, batches: Sequence[Batch], keys: Sequence[str]) -> Alike:
    """Samples whose scores are equal to the bit under other weights, drawn anew and again.

    Where nothing but numbers are scored, they are drawn `OF_NUMBERS` times, and are other numbers
    each time: what is cut at a bound is the same for many, whatever the weights. None where all
    samples are: then the model is blind. keys: of the inputs. The weights, modes and random states
    of the subject are as before.
    """
    draws: list[dict[Place, _Scored]] = []
    with _other_weights(subject.model) as draw:
        while len(draws) < OF_NUMBERS:
            draw(len(draws))
            draws.append(_scores(subject, batches))
            same = _same(draws)
            if not same or (len(draws) == DRAWS and not any(map(_of_numbers, draws))):
                break
        same = {one: two for one, two in same.items() if _changes([each[one] for each in draws])}
        if not same or len(draws[0]) - len(same) < 2:
            return Alike()
        return Alike(same, _lost(subject, batches, keys, same))


@dataclass(slots=True)
class _Scored:
    """A sample's scores: the digest of all of them, and the numbers, where there is no class."""

    digests: list[bytes] = field(default_factory=list)
    numbers: list[Tensor] = field(default_factory=list)
    classes: bool = False


def _same(draws: Sequence[Mapping[Place, _Scored]]) -> dict[Place, Place]:
    """Sample -> the first that has the same scores in every draw, where that is another."""
    firsts: dict[tuple[bytes, ...], Place] = {}
    every = [{*each} for each in draws]
    places = [place for place in draws[0] if all(place in each for each in every)]
    found = {
        place: firsts.setdefault(tuple(d for each in draws for d in each[place].digests), place)
        for place in places
    }
    return {place: first for place, first in found.items() if place != first}


def _of_numbers(draw: Mapping[Place, _Scored]) -> bool:
    return any(each.numbers and not each.classes for each in draw.values())


def _changes(draws: Sequence[_Scored]) -> bool:
    """Whether each draw gives a number that no other does, and no half precision; or a class."""
    if any(each.classes for each in draws):
        return True
    own = [set().union(*map(_fine, each.numbers)) for each in draws]
    return all(one - set().union(*own[:i], *own[i + 1 :]) for i, one in enumerate(own))


def _fine(numbers: Tensor) -> set[float]:
    """Those that half precision does not hold: it holds few, and they are met by chance."""
    one, other = numbers.bfloat16().to(numbers.dtype), numbers.half().to(numbers.dtype)
    return set(numbers[(numbers != one) & (numbers != other) & numbers.isfinite()].tolist())


def _scores(subject: Subject, batches: Sequence[Batch]) -> dict[Place, _Scored]:
    """Every sample's scores, as their digest: those of a vocabulary are many."""
    found: dict[Place, _Scored] = {}
    for target in read_targets(subject, batches).found:
        for number, piece in enumerate(target.pieces):
            scores = piece.answers if piece.scores is None else piece.scores
            if scores is None or not piece.by_sample:
                continue
            for row, own in enumerate(scores.detach().cpu().contiguous()):
                held = found.setdefault((number, row), _Scored())
                bits = own.flatten().view(torch.uint8).numpy()
                held.digests.append(blake2b(bits, digest_size=16).digest())
                held.classes |= piece.scores is not None
                held.numbers += [] if held.classes else [own.flatten()]
    return found


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
    """Where two samples become the same; None where no two have inputs of one shape."""
    held = [leaves(each) for each in batches]

    def fits(one: Place, two: Place) -> bool:
        a, b = held[one[0]], held[two[0]]
        rows = [(a[key][one[1] :], b[key][two[1] :]) for key in keys if key in a and key in b]
        return all(min(len(x), len(y)) and x[0].shape == y[0].shape for x, y in rows)

    pairs = sorted(same.items(), key=lambda pair: pair[0][0] != pair[1][0])
    pair = next((each for each in pairs if fits(*each)), None)
    if pair is None:
        return None
    (number, row), (other, first) = pair

    def exchanged(key: str, leaf: object) -> object:
        if key not in keys or not isinstance(leaf, Tensor):
            return leaf
        changed = leaf.clone()
        changed[row] = held[other][key][first]
        return changed

    batch = batches[number]
    return lost_between(subject, batch, map_leaves(batch, exchanged))
