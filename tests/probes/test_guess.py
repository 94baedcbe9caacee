from __future__ import annotations

import torch

from probes import Labels, Layout, Mask
from probes.guess import complete


def test_a_transformers_batch_needs_no_declaration() -> None:
    batch = {
        "input_ids": torch.randint(5, 90, (4, 6)),
        "attention_mask": torch.arange(6).lt(torch.tensor([[6], [4], [2], [1]])).long(),
        "labels": torch.tensor([0, 1, 0, 1]),
    }
    guessed = complete(batch)
    assert guessed.layout.axes["input_ids"] == ("sample", "token")
    assert guessed.layout.masks == (Mask("attention_mask", hides=("input_ids",), axis=1),)
    assert guessed.layout.labels == (Labels("labels", "output"),)
    assert f"masks=({guessed.layout.masks[0]!r},)" in guessed.lines


def test_lengths_and_padding_masks_are_told_apart() -> None:
    batch = {
        "x": torch.randn(3, 5, 2),
        "lengths": torch.tensor([5, 3, 1]),
        "key_padding_mask": torch.zeros(3, 5, dtype=torch.bool),
    }
    means = {mask.key: (mask.means, mask.hides) for mask in complete(batch).layout.masks}
    assert means == {"lengths": ("length", ("x",)), "key_padding_mask": ("hide", ("x",))}


def test_a_weight_called_mask_is_not_one() -> None:
    batch = {"ids": torch.ones(2, 3, dtype=torch.long), "mask": torch.rand(2, 3)}
    assert complete(batch).layout.masks == ()


def test_what_is_declared_stands() -> None:
    batch = {"ids": torch.ones(2, 3, dtype=torch.long), "mask": torch.ones(2, 3)}
    mask = Mask("mask", hides=("ids",), means="hide")
    declared = Layout(axes={"ids": ("sample", "unit")}, masks=(mask,))
    guessed = complete(batch, declared)
    assert guessed.layout.masks == (mask,)
    assert guessed.layout.axes["ids"] == ("sample", "unit")


def test_lengths_without_a_name_are_known_by_where_the_rows_end() -> None:
    lengths = torch.tensor([5, 3, 2])
    ids = torch.arange(1, 16).view(3, 5) * (torch.arange(5) < lengths[:, None])
    (mask,) = complete((ids, lengths, torch.tensor([1, 0, 2]))).layout.masks
    assert (mask.key, mask.hides, mask.means) == ("1", ("0",), "length")
    assert complete((ids + 1, lengths + 1, torch.tensor([1, 0, 2]))).layout.masks == ()


def test_a_count_of_frames_is_known_by_where_they_end_also_short_of_the_width() -> None:
    lengths = torch.tensor([6, 3, 2])
    frames = torch.randn(3, 8, 4) * (torch.arange(8) < lengths[:, None])[..., None]
    (mask,) = complete((frames, lengths, torch.tensor([1, 0, 2]))).layout.masks
    assert (mask.key, mask.hides, mask.means) == ("1", ("0",), "length")
    assert complete((frames, lengths + 1, torch.tensor([1, 0, 2]))).layout.masks == ()
    assert complete((torch.randn(3, 8, 4), lengths)).layout.masks == ()


def test_a_mask_of_any_name_is_known_by_what_stands_where_it_ends() -> None:
    present = torch.arange(5) < torch.tensor([5, 3, 2])[:, None]
    boxes = torch.randn(3, 5, 4) * present[..., None]
    words = torch.randint(1, 9, (3, 5))
    for name, values, means in (("there", present, "keep"), ("gone", ~present, "hide")):
        (mask,) = complete({"boxes": boxes, "words": words, name: values}).layout.masks
        assert (mask.key, mask.hides, mask.means) == (name, ("boxes",), means)
    full = {"boxes": torch.randn(3, 5, 4), "words": words, "there": present}
    assert complete(full).layout.masks == ()


def test_frames_of_zeros_say_which_way_a_mask_is_meant() -> None:
    there = torch.arange(5) < torch.tensor([5, 3, 2])[:, None]
    frames = torch.randn(3, 5, 4) * there[..., None]
    for mask, means in ((there, "keep"), (~there, "hide")):
        assert [each.means for each in complete({"x": frames, "mask": mask}).layout.masks] == [
            means
        ]


def test_lengths_of_labels_are_no_mask_of_what_they_neither_fill_nor_end() -> None:
    lengths = torch.tensor([3, 4, 4, 3])
    there = torch.arange(6) < lengths[:, None]
    batch = {
        "image": torch.randn(4, 12, 48),
        "target": torch.where(there, torch.randint(1, 9, (4, 6)), 0),
        "length": lengths,
    }
    assert complete(batch).layout.masks == ()
    frames = {**batch, "image": torch.randn(4, 4, 48)}  # which the longest of them fills
    assert [mask.hides for mask in complete(frames).layout.masks] == [("image",)]
