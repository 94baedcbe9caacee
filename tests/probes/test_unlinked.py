"""Graphs that are padded to the largest of their batch: more of them must change no other node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.masking.longer import pair_ends
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Sizes = list[tuple[int, ...]]
WIDE, HEADS, CLASSES = 12, 3, 4


class Attends(nn.Module):
    """Nodes attend to their neighbours; `after` takes the others away behind the softmax."""

    def __init__(self, after: bool, loops: bool) -> None:
        super().__init__()
        self.inner, self.scores = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, 2 * HEADS)
        self.head, self.after, self.loops = nn.Linear(WIDE, CLASSES), after, loops

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        loops = torch.eye(adj.shape[-1]) if self.loops else 0
        near = (adj + loops)[:, None]
        of, to = self.scores(x).transpose(1, 2).chunk(2, 1)
        scores = F.leaky_relu(of[..., None] + to[..., None, :])
        if self.after:
            weights = scores.softmax(-1) * near  # the softmax
        else:
            weights = scores.masked_fill(near == 0, -1e9).softmax(-1)
        values = self.inner(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        out: Tensor = self.head(F.elu((weights @ values).transpose(1, 2).flatten(2)))
        return out


class Means(nn.Module):
    """A graph's vector is the mean over all its places, or over those that are no padding."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, CLASSES)
        self.by = by

    def forward(self, x: Tensor, adj: Tensor, there: Tensor) -> Tensor:
        h = F.relu(self.inner(x + adj @ x)) * there[..., None]
        out: Tensor = self.head(h.mean(1) if self.by == "all" else h.sum(1) / there.sum(1)[:, None])
        return out


def batches(sizes: Sizes, loops: bool = False) -> list[Batch]:
    seed_everything(0)
    return [batch(each, max(each), loops) for each in sizes]


def batch(sizes: tuple[int, ...], longest: int, loops: bool) -> Batch:
    there = torch.arange(longest) < torch.tensor(sizes)[:, None]
    edges = (torch.rand(len(sizes), longest, longest) < 0.4).triu(1)
    adj = (edges | edges.mT) & there[:, None] & there[..., None]
    adj = adj | torch.eye(longest, dtype=torch.bool) if loops else adj
    y = torch.randint(CLASSES, there.shape).masked_fill(~there, -100)
    x = torch.randn(*there.shape, WIDE) * there[..., None]
    return {"x": x, "adj": adj.float(), "y": y, "whole": torch.arange(len(sizes)) % CLASSES}


UNEVEN: Sizes = [(5, 8, 6, 9, 7), (4, 10, 6, 8, 5)]
EVEN: Sizes = [(5, 9, 6, 9, 7), (4, 9, 6, 8, 5)]


def of_nodes(model: nn.Module, b: Batch) -> Tensor:
    return F.cross_entropy(model(b["x"], b["adj"]).flatten(0, 1), b["y"].flatten())


def scored(model: nn.Module, b: Batch) -> Tensor:
    scores: Tensor = model(b["x"], b["adj"], b["there"] if "there" in b else (b["x"] != 0).any(-1))
    return scores


def told(model: nn.Module, made: list[Batch]) -> Iterator[Finding]:
    def adam(each: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(each.parameters(), lr=0.01)

    if isinstance(model, Attends):
        subject = Subject(model, made, of_nodes, adam, lambda each, b: each(b["x"], b["adj"]))
    else:
        subject = Subject(
            model, made, lambda each, b: F.cross_entropy(scored(each, b), b["whole"]), adam, scored
        )
    found = check(subject, chosen(only=["MSK001", "MSK004"])).findings
    return (each for each in found if each.verdict.rank > Verdict.NOTE.rank)


@pytest.mark.parametrize("loops", [True, False])
def test_neighbours_that_are_picked_behind_the_softmax_are_found(loops: bool) -> None:
    [found] = told(Attends(after=True, loops=not loops), batches(UNEVEN, loops))
    assert (found.code, found.verdict) == ("MSK004", Verdict.WARN)
    assert "`adj` and `x` and `y` change `output`" in found.message
    assert "before the softmax" in found.fix
    assert not list(told(Attends(after=False, loops=not loops), batches(UNEVEN, loops)))


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN])
def test_a_table_of_pairs_beside_a_mask_is_lengthened(sizes: Sizes) -> None:
    made = [each | {"there": each["y"] >= 0} for each in batches(sizes)]
    [found] = told(Means("all"), made)
    assert (found.code, "`adj` and `there` and `x`" in found.message) == ("MSK004", True)
    assert not list(told(Means("there"), made))


def test_padding_of_one_length_may_be_part_of_the_design() -> None:
    assert [each.code for each in told(Means("all"), batches(UNEVEN))] == ["MSK004"]
    assert not list(told(Means("all"), batches(EVEN)))
    assert not list(told(Means("there"), batches(UNEVEN)))


def test_a_table_of_pairs_that_is_to_be_reproduced_may_be_scored_as_a_whole() -> None:
    def rebuilt(model: nn.Module, b: Batch) -> Tensor:
        vectors = model(b["adj"] @ b["x"] + b["x"])
        return F.binary_cross_entropy_with_logits(vectors @ vectors.mT, b["adj"])

    made = [{"x": each["x"], "adj": each["adj"]} for each in batches(UNEVEN)]
    model = nn.Linear(WIDE, 4)
    subject = Subject(model, made, rebuilt, lambda m: torch.optim.SGD(m.parameters(), lr=0.01))
    assert not check(subject, chosen(only=["MSK004"])).findings


def test_pairs_end_where_one_number_stands_at_all_that_are_hidden() -> None:
    keep = torch.tensor([[True, True, False], [True, True, True]])
    table = torch.ones(2, 3, 3)
    assert pair_ends(table, keep, 1) is not None
    table[0, 2, 0] = 2
    assert pair_ends(table, keep, 1) is None
    table[0, 2, 0], table[:, 2, 2] = 1, 5
    ends = pair_ends(table, keep, 1)
    assert ends is not None
    assert [float(each) for each in ends] == [1, 5]
