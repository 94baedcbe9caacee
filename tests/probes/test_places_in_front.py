"""Keys that are used as places, whatever they are called, and what a model puts in front."""

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
Read = Callable[[Tensor, Tensor], Tensor]
DIM, N, BATCHES, LONGEST, KINDS = 16, 16, 6, 14, 4


def gathered(h: Tensor, at: Tensor) -> Tensor:
    return h.gather(1, at[..., None].expand(-1, -1, h.shape[-1]))


def along(h: Tensor, at: Tensor) -> Tensor:
    return torch.take_along_dim(h, at[..., None], dim=1)


def by_rows(h: Tensor, at: Tensor) -> Tensor:
    return h[torch.arange(len(h))[:, None], at]


def flat(h: Tensor, at: Tensor) -> Tensor:
    first = torch.arange(len(h))[:, None] * h.shape[1]
    return h.flatten(0, 1).index_select(0, (at + first).flatten()).view(*at.shape, -1)


def with_neighbours(h: Tensor, at: Tensor) -> Tensor:
    """Of vectors with one more at each end: those at both sides of each, and its own."""
    return gathered(h, at) + gathered(h, at + 1) + gathered(h, at + 2)


def tail_left_out(h: Tensor, at: Tensor) -> Tensor:
    return gathered(h[:, 1:], at)


class Tagger(nn.Module):
    """Units of texts. front, behind: learned vectors beside the tokens; by: added to the places.

    cls: an id that the model lays before the ids. causal: what comes later is not shown.
    """

    def __init__(
        self,
        read: Read = gathered,
        front: int = 1,
        behind: int = 0,
        by: int = 0,
        cls: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.emb = nn.Embedding(62, DIM, padding_idx=0)
        self.front = nn.Parameter(0.1 * torch.randn(1, front, DIM))
        self.behind = nn.Parameter(0.1 * torch.randn(1, behind, DIM))
        self.place = nn.Parameter(0.1 * torch.randn(LONGEST + front + behind + cls, DIM))
        self.block = nn.TransformerEncoderLayer(DIM, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(DIM, KINDS)
        self.read, self.by, self.cls, self.causal = read, by, cls, causal

    def forward(self, words: Tensor, key: Tensor) -> Tensor:
        if self.cls:
            words = torch.cat([torch.full_like(words[:, :1], 61), words], 1)
        own = [self.front.expand(len(words), -1, -1), self.emb(words)]
        x = torch.cat([*own[not self.front.numel() :], self.behind.expand(len(words), -1, -1)], 1)
        keep = F.pad(words != 0, (self.front.shape[1], self.behind.shape[1]), value=True)
        later = torch.ones(x.shape[1], x.shape[1]).triu(1).bool() if self.causal else None
        h = self.block(x + self.place[: x.shape[1]], later, ~keep)
        scores: Tensor = self.head(self.read(h, key + self.by))
        return scores


def texts(units: str = "words", key: str = "w2t") -> list[Batch]:
    """Words of one to three pieces, and where each begins.

    units: `words`; `counted`: with what is put in front; `own`: what is in front is a unit as well,
    of a kind of its own; `none`: some of them named in any order, 0 where there is no such word.
    """
    chance = torch.Generator().manual_seed(3)

    def r(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=chance))

    batches = []
    for _ in range(BATCHES):
        words = torch.zeros(N, LONGEST, dtype=torch.long)
        at = torch.zeros(N, 6, dtype=torch.long)
        tags = torch.full((N, 6), -100)
        for row in range(N):
            pieces, firsts = list[int](), list[int]()
            while len(firsts) < 5 and len(pieces) < LONGEST - 3:
                firsts.append(len(pieces))
                pieces += [r(1, 40), *[r(40, 60) for _ in range(r(0, 3))]]
            kinds = [pieces[first] % 3 for first in firsts]
            if units == "counted":
                firsts = [each + 1 for each in firsts]
            elif units == "own":
                firsts, kinds = [0, *[each + 1 for each in firsts]], [3, *kinds]
            elif units == "none":
                firsts = [0 if r(0, 3) == 0 else each + 1 for each in firsts]
            words[row, : len(pieces)] = torch.tensor(pieces)
            at[row, : len(firsts)] = torch.tensor(firsts)
            tags[row, : len(kinds)] = torch.tensor(kinds)
        batches.append({"words": words, key: at, "tags": tags})
    return batches


def told(model: nn.Module, batches: list[Batch], key: str = "w2t") -> tuple[Finding, ...]:
    def loss(model: nn.Module, b: Batch) -> Tensor:
        scores = model(b["words"], b[key])
        return F.cross_entropy(scores.flatten(0, 1), b["tags"].flatten(), ignore_index=-100)

    subject = Subject(
        model,
        batches,
        loss,
        lambda m: torch.optim.Adam(m.parameters()),
        predict=lambda m, b: m(b["words"], b[key]),
    )
    return check(subject, chosen(["IDX001"])).findings


@pytest.mark.parametrize("read", [gathered, along, by_rows, flat])
def test_places_that_do_not_count_what_is_in_front_are_told_by_use(read: Read) -> None:
    seed_everything(0)
    (one,) = told(Tagger(read), texts())
    assert one.verdict is Verdict.WARN
    assert one.source is not None
    assert one.source.startswith("tests/probes/test_places_in_front.py")
    assert "`w2t` names: the model puts 1 row before the 14 of tokens" in one.message
    assert "every unit reads 1 row before its own" in one.message


@pytest.mark.parametrize(
    ("model", "by"),
    [
        (lambda: Tagger(front=4), 4),  # prompts
        (lambda: Tagger(front=2, by=1), 1),
        (lambda: Tagger(front=1, behind=3), 1),  # registers
        (lambda: Tagger(front=0, cls=True), 1),
        (lambda: Tagger(front=2, cls=True), 3),
    ],
)
def test_prompts_registers_and_ids_in_front_are_told(
    model: Callable[[], nn.Module], by: int
) -> None:
    seed_everything(0)
    (one,) = told(model(), texts())
    assert f"every unit reads {by} row{'s' * (by > 1)} before its own" in one.message


@pytest.mark.parametrize(
    ("model", "units"),
    [
        (lambda: Tagger(by=1), "words"),
        (lambda: Tagger(front=4, by=4), "words"),
        (lambda: Tagger(front=2, cls=True, by=3), "words"),
        (lambda: Tagger(tail_left_out), "words"),
        (lambda: Tagger(with_neighbours, behind=1), "words"),
        (lambda: Tagger(causal=True), "words"),
        (lambda: Tagger(front=0, behind=3), "words"),
        (lambda: Tagger(front=0), "words"),
        (lambda: Tagger(), "counted"),
        (lambda: Tagger(), "own"),
        (lambda: Tagger(), "none"),
    ],
)
def test_what_counts_it_or_means_it_is_healthy(model: Callable[[], nn.Module], units: str) -> None:
    seed_everything(0)
    assert told(model(), texts(units)) == ()


def test_a_key_that_is_told_by_its_name_is_told_once() -> None:
    seed_everything(0)
    (one,) = told(Tagger(), texts(key="starts"), key="starts")
    assert "every unit reads 1 token before its span" in one.message
