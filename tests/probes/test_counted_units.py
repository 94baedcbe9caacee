"""Units that a key of lengths counts, between separators: what the model makes of the lengths."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Layout, Reads, Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
CLS, SEP = 1, 2


class Units(nn.Module):
    """Scores units of `[CLS] a [SEP] b [SEP]` by the mean of their rows.

    between: how many tokens it takes to stand between two units. front: and before all of them.
    more: how many it reads beyond each unit's end. both_ways: whether rows read what comes later.
    """

    def __init__(
        self, between: int = 1, front: int = 1, more: int = 0, both_ways: bool = True
    ) -> None:
        super().__init__()
        self.words, self.norm, self.out = nn.Embedding(40, 16), nn.LayerNorm(16), nn.Linear(16, 1)
        self.mix = nn.Conv1d(16, 16, 3)
        self.between, self.front, self.more, self.both_ways = between, front, more, both_ways

    def forward(self, ids: Tensor, counts: Tensor) -> Tensor:
        before = F.pad(self.words(ids).mT, (1, 1) if self.both_ways else (2, 0))
        rows = self.norm(self.mix(before).mT)
        number = torch.arange(counts.shape[1])
        ends = self.front + counts.cumsum(1) + self.between * number  # the lengths are summed here
        at = torch.arange(ids.shape[1])
        inside = (at >= (ends - counts)[..., None]) & (at < ends[..., None] + self.more)
        inside &= (counts > 0)[..., None]
        weights = inside.float() / inside.sum(-1, keepdim=True).clamp(min=1)
        scores: Tensor = self.out(weights @ rows).squeeze(-1)
        return scores


class Heads(Units):
    """Scores units by the token just before each."""

    def forward(self, ids: Tensor, counts: Tensor) -> Tensor:
        rows = self.norm(self.mix(F.pad(self.words(ids).mT, (1, 1))).mT)
        steps = counts + self.between
        at = (steps.cumsum(1) - steps).clamp(max=ids.shape[1] - 1)
        scores: Tensor = self.out(rows.gather(1, at[..., None].expand(-1, -1, 16))).squeeze(-1)
        return scores


class Joined(Units):
    """Joins the mean of its units to each of them, so that all read everything in the end.

    sums: units are differences of running sums. mixed: a convolution that is no module.
    """

    def __init__(self, between: int = 1, sums: bool = False, mixed: bool = False) -> None:
        super().__init__(between)
        self.whole, self.sums, self.mixed = nn.Linear(16, 16), sums, mixed

    def forward(self, ids: Tensor, counts: Tensor) -> Tensor:
        rows = self.norm(self.mix(F.pad(self.words(ids).mT, (1, 1))).mT)
        if self.mixed:
            rows = F.conv1d(rows.mT, self.mix.weight, padding=1).mT
        ends = 1 + (counts + self.between).cumsum(1) - self.between  # and summed here
        at = torch.arange(ids.shape[1])
        inside = (at >= (ends - counts)[..., None]) & (at < ends[..., None])
        units = inside.float() @ rows / counts.clamp(min=1)[..., None]
        if self.sums:
            sums = F.pad(rows.cumsum(1), (0, 0, 1, 0))
            high, low = (each[..., None].expand(-1, -1, 16) for each in (ends, ends - counts))
            units = sums.gather(1, high) - sums.gather(1, low)
        real = (counts > 0).float()[..., None]
        whole = (units * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        scores: Tensor = self.out(torch.tanh(units + self.whole(whole))).squeeze(-1)
        return scores


def texts(separated: bool = True) -> list[Batch]:
    chance = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(3):
        ids, counts = torch.zeros(12, 40, dtype=torch.long), torch.zeros(12, 5, dtype=torch.long)
        for row in range(12):
            at = 1
            ids[row, 0] = CLS
            for unit in range(int(torch.randint(3, 6, (), generator=chance))):
                long = int(torch.randint(2, 6, (), generator=chance))
                ids[row, at : at + long] = torch.randint(3, 40, (long,), generator=chance)
                ids[row, at + long] = SEP if separated else 0
                counts[row, unit], at = long, at + long + separated
        wanted = torch.randint(2, (12, 5), generator=chance).float()
        batches.append({"ids": ids, "counts": counts, "wanted": wanted})
    return batches


def said(model: nn.Module, batches: list[Batch], layout: Layout | None = None) -> list[Finding]:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores, keep = model(batch["ids"], batch["counts"]), batch["counts"] > 0
        return F.binary_cross_entropy_with_logits(scores[keep], batch["wanted"][keep])

    subject = Subject(
        model, batches, loss, lambda m: torch.optim.Adam(m.parameters()), layout=layout
    )
    return list(check(subject, chosen(["IDX001"])).findings)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: Units(between=0), "the offset grows by -1 a unit, from 0"),
        (lambda: Units(between=2), "the offset grows by 1 a unit, from 0"),
        (lambda: Units(front=0), "every unit reads 1 token before its span"),
        (lambda: Heads(between=0), "the offset grows by -1 a unit, from -1"),
        (lambda: Joined(between=0), "the offset grows by -1 a unit, from 0"),
        (lambda: Joined(between=0, sums=True), "the offset grows by -1 a unit, from 0"),
        (lambda: Joined(between=0, mixed=True), "the offset grows by -1 a unit, from -1"),
    ],
)
def test_lengths_that_are_summed_without_what_stands_between_are_told(
    model: type[Units], words: str
) -> None:
    seed_everything(0)
    (found,) = said(model(), texts())
    assert words in found.message
    assert "what `counts` counts" in found.message
    assert (found.verdict, found.site) == (Verdict.WARN, "model")


def test_the_line_is_that_which_sums_the_lengths() -> None:
    seed_everything(0)
    (found,) = said(Units(between=0), texts())
    assert found.source is not None
    path, _, line = found.source.rpartition(":")
    with open(__file__) as file:
        assert "the lengths are summed here" in file.readlines()[int(line) - 1]
    assert path.endswith("test_counted_units.py")


@pytest.mark.parametrize(
    "model",
    [
        Units,
        lambda: Units(more=1),  # the separator after each as well
        lambda: Heads(between=1),  # the separator before each
        Joined,
        lambda: Joined(sums=True),
        lambda: Joined(mixed=True),
        lambda: Units(front=0, both_ways=False),  # the row before tells the token
    ],
)
def test_units_that_read_their_own_are_healthy(model: type[Units]) -> None:
    seed_everything(0)
    assert said(model(), texts()) == []


class Words(Units):
    """Scores words by the row of one piece each, of pieces that lie end to end.

    of: which piece. off: how many places that is moved by.
    """

    def __init__(self, of: str = "first", off: int = 0, both_ways: bool = True) -> None:
        super().__init__(0, both_ways=both_ways)
        self.of, self.off = of, off

    def forward(self, ids: Tensor, counts: Tensor) -> Tensor:
        rows = self.norm(
            self.mix(F.pad(self.words(ids).mT, (1, 1) if self.both_ways else (2, 0))).mT
        )
        ends = self.front + counts.cumsum(1)
        at = (ends - counts if self.of == "first" else ends - 1) + self.off
        at = at.clamp(0, ids.shape[1] - 1)
        scores: Tensor = self.out(rows.gather(1, at[..., None].expand(-1, -1, 16))).squeeze(-1)
        return scores


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: Units(between=1), "the offset grows by 1 a unit, from 0"),
        (lambda: Units(between=0, front=0), "every unit reads 1 token before its span"),
        (lambda: Words("last", 1), "1 token after the end of its span: the first of the next one"),
        (lambda: Words("first", -1), "1 token before the start of its span"),
    ],
)
def test_words_of_pieces_that_lie_end_to_end_are_told_by_their_sum(
    model: type[Units], words: str
) -> None:
    seed_everything(0)
    (found,) = said(model(), texts(separated=False))
    assert words in found.message
    assert (found.verdict, found.site) == (Verdict.WARN, "model")


@pytest.mark.parametrize(
    "model",
    [
        lambda: Units(between=0),
        Words,
        lambda: Words("last"),
        lambda: Words("first", -1, both_ways=False),  # the row before tells the word
        lambda: Words("last", 1, both_ways=False),  # a token later
    ],
)
def test_words_that_read_pieces_of_their_own_are_healthy(model: type[Units]) -> None:
    seed_everything(0)
    assert said(model(), texts(separated=False)) == []


def test_lengths_that_do_not_add_up_say_nothing() -> None:
    seed_everything(0)
    batches = texts(separated=False)
    for batch in batches:
        batch["ids"] = torch.cat([batch["ids"][:, :1], batch["ids"]], 1)
        batch["ids"][::2, 1] = torch.randint(3, 40, (6,))  # a token that nothing counts
    assert said(Units(between=1), batches) == []


def test_units_by_lengths_can_be_declared() -> None:
    seed_everything(0)
    layout = Layout(reads=(Reads("output", of="ids", rule="span", keys=("counts",)),))
    (found,) = said(Units(between=0), texts(), layout)
    assert (found.verdict, "grows by -1" in found.message) == (Verdict.FAIL, True)
    assert said(Units(), texts(), layout) == []
