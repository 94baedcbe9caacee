"""Which interactions are trained on, and in which order: a function of seed and epoch alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from model.config import Config
from model.read import Interaction
from probes.errors import RequestError

Size = Callable[[Interaction], tuple[int, ...]]
"""What interactions of like size have alike."""

POOL = 50
"""Batches whose interactions are put together by size."""


@dataclass(frozen=True, slots=True)
class Split:
    """What is trained on and what is held out; no interaction is in both."""

    training: tuple[Interaction, ...]
    validation: tuple[Interaction, ...]


def split(config: Config, interactions: Sequence[Interaction]) -> Split:
    """The interactions cut to `max_turn`, `validation` of them held out, the rest made tiny.

    Raises RequestError where there are fewer than the configuration asks for.
    """
    short = cut(config, interactions)
    drawn = random.Random(config.seed).sample(range(len(short)), len(short))
    held, rest = _held(config, short, drawn)
    if len(rest) < max(1, config.tiny or 0):
        raise RequestError(
            f"`validation={config.validation}` and `tiny_dataset={config.tiny_dataset}` ask for "
            f"more than the {len(short)} interactions that the data holds: at least one, and a "
            "tiny set whole, must be left to train on; ask for fewer, or give more data"
        )
    kept = sorted(rest if config.tiny is None else _tiny(config, short, rest))
    return Split(tuple(short[i] for i in kept), tuple(short[i] for i in held))


def _held(
    config: Config, interactions: Sequence[Interaction], drawn: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The first `validation` that were drawn and the rest, or with them all of their databases."""
    held, rest = list(drawn[: config.validation]), list(drawn[config.validation :])
    if not config.validation_databases:
        return sorted(held), rest
    groups: dict[str, list[int]] = {}
    for index in drawn:
        groups.setdefault(interactions[index].database, []).append(index)
    held = []
    for group in groups.values():  # in the order of the draw, so that the seed chooses
        if len(held) < config.validation:
            held += group
    chosen = set(held)
    return sorted(held), [index for index in drawn if index not in chosen]


def cut(config: Config, interactions: Sequence[Interaction]) -> list[Interaction]:
    """The interactions without the turns after the first `max_turn`."""
    return [replace(each, turns=each.turns[: config.max_turn]) for each in interactions]


def _tiny(config: Config, interactions: Sequence[Interaction], drawn: Sequence[int]) -> list[int]:
    """The first `tiny` that were drawn; of one database where that is asked for.

    Where no database has so many, the largest ones are taken until the set is full.
    """
    wanted = config.tiny or 0
    if not config.same_database:
        return list(drawn[:wanted])
    groups: dict[str, list[int]] = {}
    for index in drawn:
        groups.setdefault(interactions[index].database, []).append(index)
    for group in groups.values():  # in the order of the draw, so that the seed chooses
        if len(group) >= wanted:
            return group[:wanted]
    largest = sorted(groups.values(), key=len, reverse=True)
    return [index for group in largest for index in group][:wanted]


def steps_per_epoch(config: Config, count: int) -> int:
    """How many steps it takes to see `count` interactions once."""
    return -(-count // config.batch_size)


def batches(
    config: Config,
    interactions: Sequence[Interaction],
    epoch: int,
    size: Size = lambda each: (len(each.turns),),
) -> list[list[Interaction]]:
    """The steps of an epoch: every interaction once, `batch_size` a step.

    With `bucketing` those of a step have like sizes, so that little of it is padding.
    """
    order = list(interactions)
    chance = random.Random(f"{config.seed} {epoch}")
    if config.shuffle:
        chance.shuffle(order)
    if not config.bucketing:
        return _cut(order, config.batch_size)
    pools = _cut(order, POOL * config.batch_size)
    found = [each for pool in pools for each in _cut(sorted(pool, key=size), config.batch_size)]
    if config.shuffle:
        chance.shuffle(found)
    return found


def _cut(order: Sequence[Interaction], size: int) -> list[list[Interaction]]:
    return [list(order[start : start + size]) for start in range(0, len(order), size)]
