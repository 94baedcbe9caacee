from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import torch
from torch import nn

from overfit.samples import draw
from probes import Layout, Subject
from probes.errors import RequestError
from probes.reread import reread


def subject_of(batches: Any, **more: Any) -> Subject:
    return Subject(
        nn.Linear(2, 2),
        batches,
        lambda model, batch: model(batch["x"]).sum(),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        **more,
    )


def numbered(sizes: list[int], width: int = 2) -> list[dict[str, Any]]:
    """Batches whose samples carry their own number in `id` and in every entry of `x`."""
    start, batches = 0, []
    for size in sizes:
        ids = torch.arange(start, start + size)
        batches.append({"x": ids[:, None].expand(size, width).float(), "id": ids})
        start += size
    return batches


def ids_of(batches: tuple[Any, ...]) -> list[int]:
    return [number for batch in batches for number in batch["id"].tolist()]


def test_the_five_are_among_the_twenty_and_follow_the_seed() -> None:
    subject = subject_of(numbered([16, 16, 16]))
    drawn = draw(subject, (5, 20), seed=0)
    five, twenty = ids_of(drawn[5].batches), ids_of(drawn[20].batches)
    assert len(set(five)) == 5
    assert len(set(twenty)) == 20
    assert set(five) < set(twenty)
    assert ids_of(draw(subject, (5, 20), seed=0)[5].batches) == five
    assert ids_of(draw(subject, (5, 20), seed=1)[5].batches) != five


def test_a_suite_is_one_batch_where_shapes_agree() -> None:
    drawn = draw(subject_of(numbered([4, 4, 4, 4])), (12,), seed=0)[12]
    assert [len(batch["x"]) for batch in drawn.batches] == [12]
    assert drawn.batches[0]["x"][:, 0].tolist() == drawn.batches[0]["id"].tolist()


def test_shapes_that_differ_stay_apart_and_nothing_is_padded() -> None:
    wide = numbered([6], width=3)
    drawn = draw(subject_of([*numbered([6]), *wide]), (12,), seed=0)[12]
    assert sorted(tuple(batch["x"].shape) for batch in drawn.batches) == [(6, 2), (6, 3)]


def test_a_setting_that_differs_keeps_batches_apart() -> None:
    batches = [{**batch, "temperature": float(i)} for i, batch in enumerate(numbered([3, 3, 3]))]
    batches[2]["temperature"] = 0.0
    drawn = draw(subject_of(batches), (9,), seed=0)[9]
    assert sorted(len(batch["x"]) for batch in drawn.batches) == [3, 6]


def test_names_and_places_stand_in_the_order_of_the_batches() -> None:
    subject = subject_of(
        numbered([5, 5, 5]), describe=lambda batch, i: f"number {int(batch['id'][i])}"
    )
    drawn = draw(subject, (7,), seed=3)[7]
    assert [f"number {each}" for each in ids_of(drawn.batches)] == list(drawn.names)
    assert [5 * place.batch + (place.index or 0) for place in drawn.places] == ids_of(drawn.batches)


def test_a_last_batch_of_one_sample_counts_as_one() -> None:
    drawn = draw(subject_of(numbered([4, 4, 1])), (9,), seed=0)[9]
    assert sorted(ids_of(drawn.batches)) == list(range(9))
    assert drawn.unit == "samples"


def test_batches_that_cannot_be_cut_are_counted_whole_and_it_is_said() -> None:
    ragged = [{"x": torch.zeros(3, 2), "id": torch.arange(7)} for _ in range(6)]
    drawn = draw(subject_of(ragged), (5,), seed=0)[5]
    assert len(drawn.batches) == 5
    assert drawn.unit == "batches"
    assert drawn.notes == ("the batches cannot be cut into samples, so sizes count whole batches",)


def test_a_declared_sample_axis_is_cut() -> None:
    batches = [{"x": torch.arange(12.0).reshape(3, 4)}]  # (token, sample)
    subject = subject_of(batches, layout=Layout(axes={"x": ("token", "sample")}))
    drawn = draw(subject, (4,), seed=0)[4]
    assert drawn.batches[0]["x"].shape == (3, 4)
    assert drawn.batches[0]["x"][0].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("as_tensor", [False, True])
def test_all_samples_come_from_one_group_that_is_large_enough(as_tensor: bool) -> None:
    batches = numbered([10, 10, 10])
    for batch in batches:
        groups = [int(number) % 3 for number in batch["id"]]
        batch["db"] = torch.tensor(groups) if as_tensor else [f"db{each}" for each in groups]
    drawn = draw(subject_of(batches, group="db"), (5, 10), seed=0)
    assert len({number % 3 for number in ids_of(drawn[10].batches)}) == 1
    assert drawn[5].group == drawn[10].group is not None
    others = {draw(subject_of(batches, group="db"), (5,), seed)[5].group for seed in range(12)}
    assert len(others) == 3


def test_where_no_group_is_large_enough_the_largest_are_taken_and_it_is_said() -> None:
    batches = numbered([10])
    batches[0]["db"] = ["a"] * 6 + ["b"] * 3 + ["c"]
    drawn = draw(subject_of(batches, group="db"), (5, 8), seed=0)
    assert set(ids_of(drawn[5].batches)) < set(range(6))
    assert set(range(6)) < set(ids_of(drawn[8].batches)) < set(range(9))
    assert (drawn[5].group, drawn[8].group) == ("a", None)
    assert "no `db` has 8 samples (the largest, a, has 6)" in drawn[8].notes[0]


def test_a_size_larger_than_the_data_is_refused() -> None:
    with pytest.raises(RequestError) as refusal:
        draw(subject_of(numbered([4, 4])), (5, 20), seed=0)
    assert str(refusal.value) == (
        "`--sizes` asks for 20, but `Subject.batches` holds 8 samples in all: ask for at most 8."
    )


def test_a_group_key_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError) as refusal:
        draw(subject_of(numbered([8]), group="db"), (5,), seed=0)
    assert str(refusal.value) == (
        "`Subject.group` is `db`, but a batch holds x, id: name one of them."
    )


def test_endless_batches_are_not_read_to_their_end() -> None:
    def endless() -> Iterator[dict[str, Any]]:
        for start in count():
            yield {"x": torch.zeros(64, 2), "id": torch.arange(64) + 64 * start}

    drawn = draw(reread(subject_of(endless())), (20,), seed=0)[20]
    assert len(set(ids_of(drawn.batches))) == 20
    assert drawn.notes == ("the draw looked at the first 2048 samples",)


def test_a_generator_can_be_read_again() -> None:
    subject = reread(subject_of(batch for batch in numbered([2, 2, 2])))
    next(iter(subject.batches))
    assert ids_of(tuple(subject.batches)) == ids_of(tuple(subject.batches)) == list(range(6))
