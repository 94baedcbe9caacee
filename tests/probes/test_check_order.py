"""Labels, masks and shapes in another order than what they belong to, each beside its twin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def said(code: str, model: nn.Module, batch: Batch, loss: Loss, keys: str) -> list[Finding]:
    """What one check says above a note; keys: those that the model takes, in order."""
    subject = Subject(
        model,
        [batch],
        loss,
        sgd,
        predict=lambda each, b: each(*(b[key] for key in keys.split())),
    )
    judged = check(subject, chosen(only=[code]))
    return [each for each in judged.findings if each.verdict.rank > Verdict.NOTE.rank]


@pytest.fixture
def images() -> Batch:
    seed_everything(0)
    classes = torch.randint(5, (6, 7, 8))
    return {"image": torch.randn(6, 3, 7, 8), "map": classes}


def segmenter() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))


def test_a_label_map_that_is_mirrored_against_its_image_is_told(images: Batch) -> None:
    def loss(mirrored: bool) -> Loss:
        return lambda model, b: F.cross_entropy(
            model(b["image"]), b["map"].flip(-1) if mirrored else b["map"]
        )

    found = said("LBL002", segmenter(), images, loss(True), "image")
    assert len(found) == 1
    assert "reversed along axis 2" in found[0].message
    assert "test_check_order.py" in (found[0].source or "")
    assert said("LBL002", segmenter(), images, loss(False), "image") == []


def test_a_term_that_counts_what_another_one_ignores_is_told(images: Batch) -> None:
    images["map"][..., 6:] = 255

    def loss(model: nn.Module, b: Batch, all_of_it: bool) -> Tensor:
        scores, keep = model(b["image"]), (b["map"] != 255)[:, None]
        shares = scores.softmax(1)
        gold = torch.zeros_like(shares).scatter(1, b["map"].clamp(max=4)[:, None], 1.0)
        if not all_of_it:
            shares, gold = shares * keep, gold * keep
        shares, gold = shares.movedim(1, 0).flatten(1), gold.movedim(1, 0).flatten(1)
        dice = (2 * (shares * gold).sum(1) / (shares + gold).sum(1)).mean()
        penalty = scores.logsumexp(1).square().mean()  # of all places, and of no label
        return F.cross_entropy(scores, b["map"], ignore_index=255) - dice + 0.01 * penalty

    found = said("LBL003", segmenter(), images, lambda m, b: loss(m, b, True), "image")
    assert len(found) == 1
    assert "whose `map` is 255" in found[0].message
    assert said("LBL003", segmenter(), images, lambda m, b: loss(m, b, False), "image") == []


class Anchors(nn.Module):
    """Scores of 2 anchors of 4 classes a cell."""

    def __init__(self, viewed: bool) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 2 * 4, 1)
        self.viewed = viewed

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(image)
        if self.viewed:
            return scores.view(len(image), -1, 4)
        return scores.unflatten(1, (2, 4)).permute(0, 3, 4, 1, 2).reshape(len(image), -1, 4)


def test_classes_that_are_cut_out_of_the_width_are_told(images: Batch) -> None:
    batch = {"image": images["image"], "anchors": torch.randint(4, (6, 112))}

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(model(b["image"]).flatten(0, 1), b["anchors"].flatten())

    found = said("IDX005", Anchors(True), batch, loss, "image")
    assert [each.op for each in found] == ["aten.view"]
    assert said("IDX005", Anchors(False), batch, loss, "image") == []


@pytest.mark.parametrize(
    ("model_by", "labels_by", "seen", "count"),
    [
        ("columns", "rows", 3.0, 1),
        ("rows", "rows", 3.0, 0),
        ("columns", "columns", 3.0, 0),
        ("columns", "rows", 0.0, 0),  # what a cell looks like tells nothing of its label
    ],
)
def test_cells_that_are_flattened_by_columns_are_told_where_labels_are_by_rows(
    model_by: str, labels_by: str, seen: float, count: int
) -> None:
    seed_everything(0)
    cells = torch.randint(3, (12, 4, 4))
    looks = seen * F.one_hot(cells, 3).permute(0, 3, 1, 2)
    image = looks.repeat_interleave(2, 2).repeat_interleave(2, 3) + torch.randn(12, 3, 8, 8)
    cells = cells.transpose(1, 2) if labels_by == "columns" else cells
    batch = {"image": image, "cells": torch.stack([cells, cells * (cells > 1)], -1).flatten(1)}
    order = (0, 3, 2, 1) if model_by == "columns" else (0, 2, 3, 1)

    class Detector(nn.Conv2d):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image).permute(order).reshape(len(image), -1, 3)

    found = said(
        "LBL002",
        Detector(3, 6, 2, 2),
        batch,
        lambda m, b: F.cross_entropy(m(b["image"]).flatten(0, 1), b["cells"].flatten()),
        "image",
    )
    assert len(found) == count


class Cells(nn.Module):
    """Attends over the cells of an image, but for those that are padding."""

    def __init__(self, crossed: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 3)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.crossed = crossed

    def forward(self, image: Tensor, there: Tensor) -> Tensor:
        cells = self.embed(image).flatten(2).transpose(1, 2)
        hides = ~(there.transpose(1, 2) if self.crossed else there).flatten(1)
        logits: Tensor = self.head(
            self.attend(cells[:, :1], cells, cells, key_padding_mask=hides)[0][:, 0]
        )
        return logits


def test_a_mask_that_is_flattened_by_columns_is_told(images: Batch) -> None:
    rows, columns = torch.tensor([7, 6, 3, 7, 5, 4]), torch.tensor([8, 3, 8, 5, 8, 2])
    there = (torch.arange(7)[:, None] < rows[:, None, None]) & (
        torch.arange(8) < columns[:, None, None]
    )
    batch = {"image": images["image"], "there": there, "y": torch.arange(6) % 3}

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(model(b["image"], b["there"]), b["y"])

    found = said("MSK006", Cells(True), batch, loss, "image there")
    assert [each.site for each in found] == ["attend"]
    assert said("MSK006", Cells(False), batch, loss, "image there") == []


@pytest.mark.parametrize(("start", "codes"), [(9, ["LBL004"]), (10, [])])
def test_a_target_window_that_begins_within_its_input_is_told(start: int, codes: list[str]) -> None:
    seed_everything(0)
    series = torch.randn(6, 16).cumsum(1)
    batch = {"past": series[:, :10], "future": series[:, start : start + 5]}
    found = said(
        "LBL004",
        nn.Linear(10, 5),
        batch,
        lambda model, b: F.mse_loss(model(b["past"]), b["future"]),
        "past",
    )
    assert [each.code for each in found] == codes


class Last(nn.Module):
    """One number, of a row or of the last place along time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        number: Tensor = self.head(x[:, -1] if x.ndim == 3 else x)[:, 0]
        return number


@pytest.mark.parametrize(
    ("cut", "wanted", "codes"),
    [
        (lambda s: s[:, 1:], lambda s: s[:, -1], ["LBL004"]),
        (lambda s: s[:, :-1], lambda s: s[:, -1], []),
        (lambda s: s[:, 1:, None].expand(-1, -1, 2), lambda s: s[:, -1:], ["LBL004"]),
        (lambda s: s[:, :, None].expand(-1, -1, 2), lambda s: s[:, 0], []),  # to be recalled
        (lambda s: s[:, :1], lambda s: s[:, 0], []),  # asked for all it reads
        (lambda s: s[:, 1:].round(), lambda s: s[:, -1].round(), []),  # of few values
    ],
)
def test_a_number_to_be_given_that_stands_in_its_own_window_is_told(
    cut: Callable[[Tensor], Tensor], wanted: Callable[[Tensor], Tensor], codes: list[str]
) -> None:
    seed_everything(0)
    series = torch.randn(12, 9)
    batch = {"window": cut(series), "target": wanted(series)}

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.mse_loss(model(b["window"]), b["target"].flatten())

    model = Last(batch["window"].shape[-1])
    found = said("LBL004", model, batch, loss, "window")
    assert [each.code for each in found] == codes


class Coarse(nn.Module):
    """Half as many outputs as there are frames."""

    def __init__(self) -> None:
        super().__init__()
        self.halve = nn.Conv1d(4, 6, 2, stride=2)

    def forward(self, frames: Tensor) -> Tensor:
        scores: Tensor = self.halve(frames.transpose(1, 2))
        return scores


@pytest.mark.parametrize(("cut", "count"), [(True, 1), (False, 0)])
def test_labels_that_are_cut_and_not_thinned_out_are_told(cut: bool, count: int) -> None:
    seed_everything(0)
    batch = {"frames": torch.randn(6, 16, 4), "labels": torch.randint(6, (6, 16))}

    def loss(model: nn.Module, b: Batch) -> Tensor:
        labels = b["labels"][:, :8] if cut else b["labels"][:, ::2]
        return F.cross_entropy(model(b["frames"]), labels)

    assert len(said("LBL002", Coarse(), batch, loss, "frames")) == count


class Writer(nn.Module):
    """A prefix of two vectors, then the words, read in order; `late` counts places from the end."""

    def __init__(self, late: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 12), nn.Embedding(12, 12)
        self.read, self.head = nn.GRU(12, 12, batch_first=True), nn.Linear(12, 20)
        self.late = late

    def forward(self, words: Tensor, prefix: Tensor | None = None) -> Tensor:
        steps = torch.arange(words.shape[1])
        told = self.words(words) + self.places(steps.flip(0) if self.late else steps)
        whole = told if prefix is None else torch.cat([prefix, told], 1)
        logits: Tensor = self.head(self.read(whole)[0])
        return logits


@pytest.mark.parametrize(("first", "count"), [(1, 0), (0, 1), (2, 1)])
def test_words_that_are_scored_at_the_wrong_place_of_a_prefix_are_told(
    first: int, count: int
) -> None:
    seed_everything(0)
    batch = {"words": torch.randint(20, (6, 8)), "prefix": torch.randn(6, 2, 12)}

    def loss(model: nn.Module, b: Batch) -> Tensor:
        scores = model(b["words"], b["prefix"])[:, first : first + 8]
        return F.cross_entropy(scores.flatten(0, 1), b["words"].flatten())

    assert len(said("LBL001", Writer(), batch, loss, "words prefix")) == count


@pytest.mark.parametrize(("late", "count"), [(True, 1), (False, 0)])
def test_places_counted_from_the_end_are_told_where_the_last_word_is_cut_off(
    late: bool, count: int
) -> None:
    seed_everything(0)

    class Cut(Writer):
        def forward(self, words: Tensor, prefix: Tensor | None = None) -> Tensor:
            return super().forward(words[:, :-1], prefix)

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(model(b["words"]).flatten(0, 1), b["words"][:, 1:].flatten())

    batch = {"words": torch.randint(20, (6, 8))}
    assert len(said("MSK009", Cut(late), batch, loss, "words")) == count


class Looked(nn.Module):
    """A class of what a table gives for ids, made into rows in some way."""

    def __init__(self, rows: int, into: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.table, self.head, self.into = nn.Embedding(rows, 8), nn.Linear(8, 3), into

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.table(self.into(ids)))
        return logits


@pytest.mark.parametrize(
    ("rows", "into", "verdicts"),
    [
        (13, lambda ids: ids.clamp(max=12), [Verdict.WARN]),
        (13, lambda ids: torch.where(ids < 13, ids, 0), [Verdict.WARN]),  # of the unknown
        (40, lambda ids: ids.clamp(max=39), [Verdict.NOTE]),  # as of what is counted
        (190, lambda ids: torch.where(ids < 190, ids, 1), []),  # the rare ones alone
        (12, lambda ids: ids % 12, []),
        (12, lambda ids: torch.bucketize(ids, torch.arange(0, 220, 20)), []),
        (2, lambda ids: torch.zeros_like(ids), []),
    ],
)
def test_ids_that_crowd_on_one_row_of_a_table_are_told(
    rows: int, into: Callable[[Tensor], Tensor], verdicts: list[Verdict]
) -> None:
    seed_everything(0)
    ids = 17 * torch.randint(13, (60,))
    subject = Subject(
        Looked(rows, into),
        [{"ids": each, "labels": each % 3} for each in ids.split(20)],
        lambda model, b: F.cross_entropy(model(b["ids"]), b["labels"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    found = check(subject, chosen(only=["IDX007"])).findings
    assert [(each.verdict, each.site) for each in found] == [(each, "table") for each in verdicts]


class LookedUp(nn.Module):
    """The same of a parameter that is looked up in some way."""

    def __init__(self, rows: int, look: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(rows, 8))
        self.head, self.look = nn.Linear(8, 3), look

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.look(self.rows, ids))
        return logits


@pytest.mark.parametrize(
    ("look", "verdicts"),
    [
        (lambda rows, ids: rows[ids.clamp(max=12)], [Verdict.WARN]),
        (lambda rows, ids: F.embedding(ids.clamp(max=12), rows), [Verdict.WARN]),
        (lambda rows, ids: rows.index_select(0, ids.clamp(max=12)), [Verdict.WARN]),
        (lambda rows, ids: rows[ids % 13], []),
        (lambda rows, ids: F.embedding(ids // 17, rows), []),
        (lambda rows, ids: rows[ids % 13].roll(1, 0) + rows[0], []),
    ],
)
def test_so_they_are_where_a_parameter_is_looked_up(
    look: Callable[[Tensor, Tensor], Tensor], verdicts: list[Verdict]
) -> None:
    seed_everything(0)
    ids = 17 * torch.randint(13, (60,))
    subject = Subject(
        LookedUp(13, look),
        [{"ids": each, "labels": each % 3} for each in ids.split(20)],
        lambda model, b: F.cross_entropy(model(b["ids"]), b["labels"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    found = check(subject, chosen(only=["IDX007"])).findings
    assert [(each.verdict, each.site) for each in found] == [(each, "model") for each in verdicts]
    assert all("test_check_order.py" in str(each.source) for each in found)
    assert all("in `rows`, which has 13" in each.message for each in found)
