from __future__ import annotations

from collections import UserDict, namedtuple

import torch
from torch.nn.utils.rnn import pack_sequence

from probes.batch import leaves, map_leaves, sample_axes, sample_count, take, to_device
from probes.layout import Layout

Pair = namedtuple("Pair", "x y")


def test_leaves_have_paths_and_a_list_of_strings_is_one_leaf() -> None:
    batch = {"ids": torch.ones(2, 3), "meta": {"names": ["a", "b"]}, "more": (torch.ones(2), 5)}
    assert list(leaves(batch)) == ["ids", "meta.names", "more.0", "more.1"]
    assert leaves(torch.ones(2)).keys() == {""}


def test_containers_keep_their_class() -> None:
    batch = UserDict(pair=Pair(torch.ones(2), torch.zeros(2)), rows=[torch.ones(2)])
    moved = to_device(batch, "meta")
    assert isinstance(moved, UserDict)
    assert isinstance(moved["pair"], Pair)
    assert isinstance(moved["rows"], list)
    assert all(leaf.is_meta for leaf in leaves(moved).values())
    assert not leaves(batch)["pair.x"].is_meta, "the batch given is as it was"


def test_samples_are_cut_along_the_axis_on_which_all_agree() -> None:
    batch = {"x": torch.arange(12).view(4, 3), "y": torch.arange(4), "names": list("abcd"), "k": 7}
    assert sample_count(batch) == 4
    cut = take(batch, [3, 1])
    assert cut["x"].tolist() == [[9, 10, 11], [3, 4, 5]]
    assert cut["y"].tolist() == [3, 1]
    assert cut["names"] == ["d", "b"]
    assert cut["k"] == 7


def test_a_declared_axis_counts_first() -> None:
    batch = {"x": torch.arange(6).view(3, 2), "y": torch.arange(2), "table": torch.zeros(5, 5)}
    layout = Layout(axes={"x": ("time", "sample")})
    assert sample_axes(batch) == {}
    assert sample_axes(batch, layout) == {"x": 1, "y": 0}
    cut = take(batch, [1], layout)
    assert cut["x"].tolist() == [[1], [3], [5]]
    assert cut["table"].shape == (5, 5)


def test_what_cannot_be_told_is_not_cut() -> None:
    assert sample_count({"x": torch.zeros(4, 3), "y": torch.zeros(5)}) is None
    packed = pack_sequence([torch.ones(2), torch.ones(1)])
    assert sample_count({"x": packed, "y": torch.zeros(2)}) is None
    assert sample_count({"text": "abc"}) is None


def test_a_tensor_of_one_row_is_shared_by_all_samples() -> None:
    batch = {"x": torch.zeros(4, 3), "positions": torch.zeros(1, 3)}
    assert take(batch, [0, 1])["positions"].shape == (1, 3)


def test_map_leaves_is_told_the_path() -> None:
    assert map_leaves({"a": (1.5, torch.ones(1))}, lambda path, leaf: path) == {"a": ("a.0", "a.1")}
