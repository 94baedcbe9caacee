from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from model.collate import COLUMN, STAR, TABLE
from model.faults import Faults
from model.linearise import KEYWORDS
from model.read import Corpus
from model.schema import Schema


def own(model: Any, batch: Any, sample: int, turn: int, unit: int) -> str:
    """A unit's word pieces as the batch places them, without marks of continuation."""
    there = batch["unit_piece_mask"][sample, turn, unit]
    places = batch["unit_pieces"][sample, turn, unit][there]
    ids = batch["ids"][sample, turn].flatten()[places]
    return "".join(model.collate.vocabulary.name(int(i)).removeprefix("##") for i in ids)


@pytest.mark.parametrize("limit", [None, 24, 40])
def test_spans_point_at_their_own_word_pieces(
    corpus: Corpus, small: Any, limit: int | None
) -> None:
    model = small(max_pieces=limit)
    batch = model.collate(corpus.interactions[::9])
    for sample, turn in batch["turn_mask"].nonzero().tolist():
        for unit in batch["unit_mask"][sample].nonzero()[:, 0].tolist():
            name = model.collate.unit_names[batch["unit_ids"][sample, unit]]
            letters = name.replace(".", "").replace("_", "")
            assert own(model, batch, sample, turn, unit) == letters


def test_kinds_of_units(corpus: Corpus, small: Any) -> None:
    model = small()
    batch = model.collate(corpus.interactions[:1])
    names = [model.collate.unit_names[i] for i in batch["unit_ids"][0].tolist()]
    want = [STAR if n == "*" else TABLE if n.endswith("*") else COLUMN for n in names]
    assert batch["unit_kinds"][0].tolist() == want


def reads(schema: Schema, batch: Any, sample: int, turn: int, unit: int) -> set[tuple[int, ...]]:
    """The (turn, place) of the word pieces that a unit's vector follows."""
    n, t, s, length = batch["ids"].shape
    hidden = torch.randn(n, t, s * length, 16, requires_grad=True)
    places, there = batch["unit_pieces"], batch["unit_piece_mask"]
    units = schema(hidden, places, there, batch["unit_kinds"], batch["unit_mask"])
    units[sample, turn, unit].square().sum().backward()
    assert hidden.grad is not None
    others = [i for i in range(n) if i != sample]
    assert not hidden.grad[others].any()
    return {tuple(place) for place in hidden.grad[sample].abs().sum(-1).nonzero().tolist()}


def span(batch: Any, sample: int, turn: int, unit: int) -> set[tuple[int, ...]]:
    there = batch["unit_piece_mask"][sample, turn, unit]
    return {(turn, int(i)) for i in batch["unit_pieces"][sample, turn, unit][there]}


@pytest.mark.parametrize("merge", ["concat", "add"])
def test_a_unit_reads_its_own_span_at_this_turn_and_the_one_before(
    corpus: Corpus, small: Any, merge: str
) -> None:
    model = small(merge=merge, merge_turns=2)
    batch = model.collate(corpus.interactions[:3])
    assert batch["turn_mask"][1].sum() >= 3
    assert reads(model.schema, batch, 1, 0, 5) == span(batch, 1, 0, 5)
    both = span(batch, 1, 1, 5) | span(batch, 1, 2, 5)
    assert reads(model.schema, batch, 1, 2, 5) == both


@pytest.mark.parametrize("offset", [-1, 1, 2])
def test_misaligned_spans(corpus: Corpus, small: Any, offset: int) -> None:
    model = small(Faults(misaligned=offset))
    batch = model.collate(corpus.interactions[:2])
    want = {(turn, place + offset) for turn, place in span(batch, 0, 0, 5)}
    assert reads(model.schema, batch, 0, 0, 5) == want


def test_unit_index_offset(corpus: Corpus, small: Any) -> None:
    model = small(Faults(unit_index_offset=True))
    batch = model.collate(corpus.interactions[:2])
    assert reads(model.schema, batch, 0, 0, 5) == span(batch, 0, 0, 6)


def test_sum_over_padding(corpus: Corpus, small: Any) -> None:
    model = small(Faults(sum_over_padding=True))
    batch = model.collate(corpus.interactions[:2])
    assert not batch["unit_piece_mask"][0, 0, 0].all()  # `*` is one word piece
    assert reads(model.schema, batch, 0, 0, 0) == span(batch, 0, 0, 0) | {(0, 0)}


def vectors(schema: Schema, batch: Any, hidden: Tensor) -> Tensor:
    places, there = batch["unit_pieces"], batch["unit_piece_mask"]
    return schema(hidden, places, there, batch["unit_kinds"], batch["unit_mask"])


@pytest.mark.parametrize("layers", [0, 2])
def test_units_that_are_not_there_are_zero_and_change_nothing(
    corpus: Corpus, small: Any, layers: int
) -> None:
    model = small(transformer_layers=layers, transformer_heads=2)
    short = next(each for each in corpus.interactions if each.database == "beekeeping")
    long = max(corpus.interactions, key=lambda each: len(corpus.databases[each.database].units))
    alone, both = model.collate([short]), model.collate([short, long])
    units = alone["unit_mask"].shape[1]
    assert units < both["unit_mask"].shape[1]
    torch.manual_seed(0)
    hidden = torch.randn(2, *both["ids"].shape[1:2], both["ids"].shape[2:].numel(), 16)
    t, length = alone["ids"].shape[1], alone["ids"].shape[-1]
    found = vectors(model.schema, both, hidden)
    assert not found[0, :, units:].any()
    want = vectors(model.schema, alone, hidden[:1, :t, :length])
    torch.testing.assert_close(found[:1, :t, :units], want, atol=1e-6, rtol=1e-5)


def test_a_step_names_keywords_first_and_units_after(corpus: Corpus, small: Any) -> None:
    model = small()
    batch = model.collate(corpus.interactions[:4])
    for sample, each in enumerate(corpus.interactions[:4]):
        for turn, one in enumerate(each.turns):
            ids = batch["labels"][sample, turn].tolist()
            assert model.collate.steps(ids, each.database) == one.steps
    assert int(batch["labels"].max()) < len(KEYWORDS) + batch["unit_mask"].shape[1]
