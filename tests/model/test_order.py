from __future__ import annotations

from collections.abc import Sequence

import pytest

from model.config import Config
from model.order import batches, split, steps_per_epoch
from model.read import Interaction, Turn
from probes.errors import RequestError


def interactions(*counts: int) -> list[Interaction]:
    """So many interactions of three turns for database 0, 1, ..."""
    turns = tuple(Turn(f"turn {i}", "select 1", ("select", "value")) for i in range(3))
    names = [f"db{i}" for i, count in enumerate(counts) for _ in range(count)]
    return [Interaction(name, turns, index) for index, name in enumerate(names)]


def indices(found: Sequence[Interaction]) -> list[int]:
    return [each.index for each in found]


def test_everything_is_trained_on_by_default() -> None:
    assert indices(split(Config(), interactions(4, 3)).training) == list(range(7))


def test_tiny_sets_of_one_seed_are_nested_and_seeds_differ() -> None:
    data = interactions(40)
    five = split(Config(tiny_dataset=5), data).training
    twenty = split(Config(tiny_dataset=True), data).training
    assert (len(five), len(twenty)) == (5, 20)
    assert set(indices(five)) < set(indices(twenty))
    assert indices(split(Config(tiny_dataset=5, seed=1), data).training) != indices(five)


def test_validation_is_held_out() -> None:
    found = split(Config(validation=4), interactions(10))
    assert len(found.validation) == 4
    assert sorted(indices(found.training) + indices(found.validation)) == list(range(10))


def test_whole_databases_are_held_out() -> None:
    found = split(Config(validation=4, validation_databases=True), interactions(3, 3, 3, 3))
    assert len(found.validation) == 6
    held = {each.database for each in found.validation}
    assert len(held) == 2
    assert held.isdisjoint({each.database for each in found.training})
    other = split(Config(validation=4, validation_databases=True, seed=1), interactions(3, 3, 3, 3))
    assert {each.database for each in other.validation} != held
    with pytest.raises(RequestError, match="ask for more than the 6"):
        split(Config(validation=4, validation_databases=True), interactions(3, 3))


def test_same_database() -> None:
    data = interactions(3, 8, 3)
    found = split(Config(tiny_dataset=5, same_database=True), data).training
    assert {each.database for each in found} == {"db1"}
    both = split(Config(tiny_dataset=10, same_database=True), data).training  # none has ten
    assert sorted({each.database for each in both})[0:2] in (["db0", "db1"], ["db1", "db2"])
    assert len(both) == 10
    mixed = split(Config(tiny_dataset=5, same_database=False, seed=1), data).training
    assert len({each.database for each in mixed}) > 1


def test_max_turn_cuts_turns() -> None:
    found = split(Config(max_turn=1), interactions(2)).training
    assert [[turn.utterance for turn in each.turns] for each in found] == [["turn 0"], ["turn 0"]]


def test_more_than_there_is_gets_a_sentence() -> None:
    with pytest.raises(RequestError) as error:
        split(Config(tiny_dataset=5, validation=3), interactions(7))
    assert str(error.value) == (
        "`validation=3` and `tiny_dataset=5` ask for more than the 7 interactions that the data "
        "holds: at least one, and a tiny set whole, must be left to train on; ask for fewer, or "
        "give more data"
    )


def test_an_epoch_sees_everything_once() -> None:
    data = interactions(7)
    config = Config(batch_size=3, shuffle=True)
    seen = batches(config, data, epoch=0)
    assert [len(each) for each in seen] == [3, 3, 1]
    assert steps_per_epoch(config, 7) == 3
    assert sorted(index for each in seen for index in indices(each)) == list(range(7))


def test_shuffle_changes_the_order_every_epoch_and_repeats_by_seed() -> None:
    data = interactions(20)
    still = Config(batch_size=20, shuffle=False)
    assert indices(batches(still, data, 0)[0]) == indices(batches(still, data, 1)[0])
    mixed = Config(batch_size=20, shuffle=True)
    first, second = (indices(batches(mixed, data, epoch)[0]) for epoch in (0, 1))
    assert first != second
    assert indices(batches(mixed, data, 0)[0]) == first
    other = Config(batch_size=20, shuffle=True, seed=1)
    assert indices(batches(other, data, 0)[0]) != first


def test_buckets_hold_interactions_of_like_size() -> None:
    data = interactions(20, 20, 20)
    config = Config(batch_size=4, bucketing=True)
    found = batches(config, data, 0, lambda each: (int(each.database[2:]),))
    assert sorted(index for each in found for index in indices(each)) == list(range(60))
    assert [len(each) for each in found] == [4] * steps_per_epoch(config, 60)
    mixed = [each for each in found if len({one.database for one in each}) > 1]
    assert len(mixed) <= 2  # where one size ends
    sizes = [each[0].database for each in found]
    assert sizes != sorted(sizes)
    assert batches(config, data, 1, lambda each: (int(each.database[2:]),)) != found
