"""A real id that padding has too, and what only looks like it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject, Verdict
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

WORDS, ROWS, PLACES = 16, 48, 14


class Reads(nn.Module):
    """names: what its configuration calls the ids."""

    def __init__(self, rows: int = WORDS + 1, padding: int | None = 0, masks: bool = False) -> None:
        super().__init__()
        self.words, self.masks = nn.Embedding(rows, 16, padding_idx=padding), masks
        self.rnn, self.out = nn.GRU(16, 16, batch_first=True), nn.Linear(16, rows)
        self.names: list[str] = []

    def forward(self, ids: Tensor) -> Tensor:
        vectors = self.words(ids)
        if self.masks:
            vectors = vectors * ids.ne(0)[..., None]
        logits: Tensor = self.out(self.rnn(vectors)[0])
        return logits


def following(model: nn.Module, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)


def whole(model: nn.Module, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)


def summed(model: nn.Module, ids: Tensor) -> Tensor:
    """Of a class that is no word."""
    return F.cross_entropy(model(ids).mean(1)[:, :3], ids[:, 0] % 3)


def found(
    model: nn.Module, ids: Tensor, loss: Callable[[nn.Module, Tensor], Tensor]
) -> list[Finding]:
    subject = Subject(
        model,
        [{"ids": each} for each in ids.split(12)],
        lambda m, b: loss(m, b["ids"]),
        lambda m: torch.optim.Adam(m.parameters()),
        lambda m, b: m(b["ids"]),
    )
    return list(check(subject, chosen(["IDX029"])).findings)


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def words(start: int, most: int = WORDS) -> Tensor:
    """(row, place) of so many words, without padding."""
    steps = torch.randint(1, 5, (ROWS, PLACES), generator=chance())
    return (steps.cumsum(1) + torch.arange(ROWS)[:, None]) % most + start


def padded(ids: Tensor, left: bool = False) -> Tensor:
    lengths = torch.randint(6, PLACES + 1, (len(ids), 1), generator=chance())
    kept = ids * (torch.arange(ids.shape[1]) < lengths)
    return kept.flip(1) if left else kept


@pytest.mark.parametrize(
    ("model", "ids", "loss", "says"),
    [
        (Reads, padded(words(0)), following, "`padding_idx=0`"),
        (Reads, padded(words(0), left=True), whole, "`padding_idx=0`"),
        (Reads, padded(words(0)), summed, "`padding_idx=0`"),
        (lambda: Reads(padding=None), padded(words(0)), following, "`ignore_index=0`"),
        (lambda: Reads(padding=None, masks=True), padded(words(0)), summed, "a mask"),
    ],
)
def test_ids_that_start_at_paddings_are_told(
    model: Callable[[], nn.Module],
    ids: Tensor,
    loss: Callable[[nn.Module, Tensor], Tensor],
    says: str,
) -> None:
    seed_everything(0)
    (each,) = found(model(), ids, loss)
    assert each.verdict is Verdict.WARN
    assert says in each.message
    assert "Row 16 of `words`, the last, is asked for by no batch" in each.message


def named(*names: str) -> Reads:
    model = Reads(WORDS)
    model.names = [*names, *(f"word {i}" for i in range(len(names), WORDS))]
    return model


def test_the_name_of_an_id_tells_what_it_is() -> None:
    """Where the table has as many rows as there are words."""
    seed_everything(0)
    (each,) = found(named("the"), padded(words(0)), following)
    assert each.verdict is Verdict.WARN
    assert "`the`" in each.message
    for name in ("<unk>", "</s>"):
        assert found(named(name), padded(words(0)), following) == []
    assert [each.verdict for each in found(named("-"), padded(words(0)), following)] == [
        Verdict.NOTE
    ]


def unknown() -> Tensor:
    """Some words are not known, and called what padding is."""
    ids = words(1)
    return padded(ids * (torch.rand(ids.shape, generator=chance()) > 0.1))


def fields(each: int = 7) -> Tensor:
    """Two texts a row, padded one by one, with a separator between them."""
    parts = [padded(words(1)[:, :each]), torch.full((ROWS, 1), WORDS)]
    lengths = torch.randint(2, each + 1, (ROWS, 1), generator=chance())
    parts += [words(1)[:, :each] * (torch.arange(each) < lengths)]
    first = words(1)[:, :each] * (torch.arange(each) < lengths.flip(0))
    return torch.cat([first, *parts[1:]], 1)


def own_turns() -> Tensor:
    """Three turns a row, each padded to the longest of its row, and then the row."""
    rows = torch.zeros(ROWS, 18, dtype=torch.long)
    for row in range(ROWS):
        lengths = torch.randint(1, 7, (3,), generator=torch.Generator().manual_seed(row))
        longest = int(lengths.max())
        for turn, length in enumerate(lengths.tolist()):
            at = turn * longest
            rows[row, at : at + length] = words(1)[row, :length]
    return rows


def board() -> Tensor:
    """Pieces on a board that is empty mostly."""
    pieces = torch.randint(1, 7, (ROWS, 36), generator=chance())
    return pieces * (torch.rand(ROWS, 36, generator=chance()) < 0.4)


@pytest.mark.parametrize(
    ("ids", "loss"),
    [
        (padded(words(1)), following),
        (padded(words(1), left=True), whole),
        (padded(words(1, 12)), following),  # the last four occur nowhere
        (fields(), summed),
        (own_turns(), summed),
        (board(), summed),
        (unknown(), following),
    ],
)
def test_padding_of_parts_and_what_is_left_out_is_no_real_id(
    ids: Tensor, loss: Callable[[nn.Module, Tensor], Tensor]
) -> None:
    seed_everything(0)
    said = found(Reads(), ids, loss)
    assert all(each.verdict is Verdict.NOTE for each in said), said


@pytest.mark.parametrize("ids", [fields(), own_turns(), board()])
def test_nothing_is_said_of_padding_of_parts(ids: Tensor) -> None:
    seed_everything(0)
    assert found(Reads(40), ids, summed) == []
