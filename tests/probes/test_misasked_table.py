"""Tables that are looked up by another table's ids, and those that share their ids on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
SIZES = (16, 6, 24)


def table(rows: int) -> nn.Embedding:
    return nn.Embedding(rows, 4)


class Keys(nn.Module):
    """A table for each key, and what each is looked up by."""

    def __init__(self, tables: dict[str, int], by: dict[str, str]) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: table(rows) for name, rows in tables.items()})
        self.by, self.head = by, nn.Linear(4 * len(tables), 1)

    def forward(self, batch: Batch) -> Tensor:
        rows = [each(batch[self.by[name]]) for name, each in self.tables.items()]
        result: Tensor = self.head(torch.cat(rows, -1)).squeeze(-1)
        return result


class Columns(nn.Module):
    """A table for each column of one key; `by` says which column each is looked up by."""

    def __init__(self, by: tuple[int, ...]) -> None:
        super().__init__()
        self.tables, self.by = nn.ModuleList(map(table, SIZES)), by
        self.head = nn.Linear(4 * len(SIZES), 1)

    def forward(self, batch: Batch) -> Tensor:
        fields = batch["fields"]
        rows = [each(fields[:, i]) for each, i in zip(self.tables, self.by, strict=True)]
        result: Tensor = self.head(torch.cat(rows, -1)).squeeze(-1)
        return result


class Tagger(nn.Module):
    """Bare parameters, looked up for each token of a sentence; the tables differ in width."""

    def __init__(self, third: str) -> None:
        super().__init__()
        wide = zip(SIZES, (8, 3, 5), strict=True)
        self.words, self.tags, self.shapes = (nn.Parameter(torch.randn(n, d)) for n, d in wide)
        self.rnn, self.head, self.third = nn.GRU(16, 8, batch_first=True), nn.Linear(8, 1), third

    def forward(self, batch: Batch) -> Tensor:
        tags, third = self.tags[batch["tag"]], F.embedding(batch[self.third], self.shapes)
        out, _ = self.rnn(torch.cat([self.words[batch["word"]], tags, third], -1))
        result: Tensor = self.head(out).squeeze(-1)
        return result


def said(model: nn.Module, ids: Batch, own_step: bool = False) -> list[Finding]:
    seed_everything(0)
    shape = next(iter(ids.values())).shape
    long = shape if "tag" in ids else shape[:1]
    batch = {**ids, "score": torch.randn(long)}
    batches = [{key: t[i : i + 16] for key, t in batch.items()} for i in range(0, 64, 16)]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(model(batch), batch["score"])

    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        found = loss(model, batch)
        found.backward()
        optimizer.step()
        return found

    subject = Subject(
        model,
        batches,
        loss,
        lambda m: torch.optim.Adam(m.parameters()),
        train_step=step if own_step else None,
    )
    return list(check(subject, chosen(["WIR034"])).findings)


def drawn(names: tuple[str, ...], sizes: tuple[int, ...], *shape: int) -> Batch:
    chance = torch.Generator().manual_seed(0)
    return {
        name: torch.randint(0, rows, shape, generator=chance)
        for name, rows in zip(names, sizes, strict=True)
    }


def events(sizes: tuple[int, ...] = SIZES) -> Batch:
    return drawn(("user", "genre", "hour"), sizes, 64)


def fields() -> Batch:
    return {"fields": torch.stack([*events().values()], 1)}


OWN = {"user": "user", "genre": "genre", "hour": "hour"}
OF = dict(zip(OWN, SIZES, strict=True))


@pytest.mark.parametrize("own_step", [False, True])
def test_a_table_that_is_looked_up_by_another_key_is_told(own_step: bool) -> None:
    [found] = said(Keys(OF, {**OWN, "hour": "genre"}), events(), own_step)
    assert found.site == "tables.hour"
    assert "looked up by `genre`" in found.message
    assert "nobody reads `hour`" in found.message


def test_a_table_that_is_looked_up_by_another_column_is_told() -> None:
    [found] = said(Columns((0, 1, 1)), fields())
    assert found.site == "tables.2"
    assert "nobody reads `fields[..., 2]`" in found.message


def test_a_table_that_is_no_module_is_told_where_it_is_looked_up() -> None:
    words = drawn(("word", "tag", "shape"), SIZES, 64, 7)
    [found] = said(Tagger("tag"), words)
    assert "`shapes` is looked up by `tag`, as `tags` is" in found.message
    assert said(Tagger("shape"), words) == []


@pytest.mark.parametrize(
    ("model", "ids"),
    [
        (lambda: Keys(OF, OWN), events),
        (lambda: Columns((0, 1, 2)), fields),
        (  # vectors and biases of one key, as long as another's ids go
            lambda: Keys({"user": 24, "bias": 24}, {"user": "user", "bias": "user"}),
            lambda: events((24, 6, 24)),
        ),
        (  # all tables have one size, whatever goes in
            lambda: Keys(dict.fromkeys(OWN, 24), {**OWN, "hour": "genre"}),
            events,
        ),
        (  # what nobody reads has no table
            lambda: Keys({**OF, "hour": 40}, {**OWN, "hour": "genre"}),
            events,
        ),
        (  # the longer table is of another key as well
            lambda: Keys({**OF, "wide": 24}, {**OWN, "wide": "genre"}),
            events,
        ),
    ],
)
def test_tables_that_share_their_ids_on_purpose_are_well(
    model: Callable[[], nn.Module], ids: Callable[[], Batch]
) -> None:
    assert said(model(), ids()) == []


class Reads(nn.Module):
    """Two tables for the tokens of a text, as for pieces and what kind they are."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces, self.kinds, self.head = table(40), table(2), nn.Linear(4, 1)

    def forward(self, batch: Batch) -> Tensor:
        hidden = self.pieces(batch["ids"]) + self.kinds(batch["kind"])
        result: Tensor = self.head(hidden.mean(1)).squeeze(-1)
        return result


def test_places_of_batches_that_differ_in_width_are_no_fields() -> None:
    seed_everything(0)
    batches = [
        {"ids": torch.randint(0, 40, (8, n)), "kind": torch.arange(n).expand(8, n) % 2}
        for n in (9, 7, 8)
    ]
    for batch in batches:
        batch["y"] = batch["ids"].float().mean(1)
    subject = Subject(
        Reads(),
        batches,
        lambda model, batch: F.mse_loss(model(batch), batch["y"]),
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
    )
    assert check(subject, chosen(["WIR034"])).findings == ()
