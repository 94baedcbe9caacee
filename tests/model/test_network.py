from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from model.collate import IGNORED, Batch
from model.linearise import KEYWORDS
from model.losses import loss
from model.network import Hierarchical, build
from model.parser import Parser, parser_of
from model.read import Corpus, Interaction, Turn
from model.seq2seq import Seq2Seq
from probes.batch import leaves, sample_count, take, to_device
from probes.errors import RequestError

BOTH = pytest.mark.parametrize("kind", ["hierarchical", "seq2seq"])
VARIANTS = pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transformer_layers": 2, "transformer_heads": 2},
        {"merge": "add", "pre_transform": False, "pooling": "sum", "state_pooling": "sum"},
        {
            "hard_attention": False
        },  # no row is masked throughout: the pre-turn stands before the first
        {"max_pieces": 30, "repeat_utterance": False, "merge_turns": 3, "pre_turn": False},
        {
            **{"joint": True, "transformer_layers": 1, "transformer_heads": 2, "copying": True},
            **{"naming": True, "used": True, "query_reader": True, "second_cell": True},
        },
        {
            **{"fusion": "two_way", "attend_utterance": False, "join_input": False},
            **{"attend_units": False, "unit_score": "bilinear", "keyword_init": "concat"},
        },
    ],
    ids=lambda changes: "+".join(changes) or "default",
)


def scores(model: Parser, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(batch)["log_probs"]


def differing(first: Tensor, second: Tensor) -> set[tuple[int, ...]]:
    """The (turn, step) of the first sample at which two outputs differ."""
    apart = (first[0] - second[0]).abs().amax(-1) > 1e-6
    return {tuple(place) for place in apart.nonzero().tolist()}


@pytest.fixture
def mixed(corpus: Corpus) -> list[Interaction]:
    """Interactions of several databases, and of different numbers of turns and steps."""
    chosen = list(corpus.interactions[::12])
    assert len({each.database for each in chosen}) > 3
    assert len({len(each.turns) for each in chosen}) > 1
    assert max(len(each.turns) for each in chosen) == 3
    return sorted(chosen, key=lambda each: len(each.turns))


@BOTH
@VARIANTS
def test_padding_and_batching_change_no_sample(
    mixed: list[Interaction], small: Any, kind: str, changes: dict[str, Any]
) -> None:
    model = small(model=kind, **changes)
    together = model.collate(mixed)
    found = scores(model, together)
    assert found.isfinite().all()
    for i, each in enumerate(mixed):
        alone = model.collate([each])
        want = scores(model, alone)
        t, j, outputs = want.shape[1:]
        assert alone["unit_mask"].all()
        there = alone["step_mask"][0]
        torch.testing.assert_close(
            found[i, :t, :j, :outputs][there], want[0][there], atol=1e-5, rtol=1e-5
        )


@BOTH
@VARIANTS
def test_no_step_reads_itself_or_a_later_one(
    mixed: list[Interaction], small: Any, kind: str, changes: dict[str, Any]
) -> None:
    model = small(model=kind, **changes)
    batch = model.collate(mixed[-1:])
    before = scores(model, batch)
    turn, step = 1, 3
    changed = {key: copy.deepcopy(leaf) for key, leaf in batch.items()}
    changed["inputs"][0, turn, step] = (changed["inputs"][0, turn, step] + 1) % len(KEYWORDS)
    steps = before.shape[2]
    may = {(turn, j) for j in range(step, steps)}
    if kind == "hierarchical":
        may |= {(t, j) for t in range(turn + 1, before.shape[1]) for j in range(steps)}
    found = differing(before, scores(model, changed))
    assert found <= may
    assert {place for place in found if place[0] == turn} == {(turn, j) for j in range(step, steps)}


@BOTH
def test_no_output_reads_a_label(mixed: list[Interaction], small: Any, kind: str) -> None:
    model = small(model=kind)
    batch = model.collate(mixed)
    changed = batch | {"labels": torch.full_like(batch["labels"], IGNORED)}
    assert torch.equal(scores(model, batch), scores(model, changed))


@BOTH
def test_a_turn_reads_no_later_utterance(mixed: list[Interaction], small: Any, kind: str) -> None:
    model = small(model=kind, merge_turns=3)
    batch = model.collate(mixed[-1:])
    changed = batch | {"ids": batch["ids"].clone()}
    changed["ids"][0, 1, 0, 2] += 1
    places = differing(scores(model, batch), scores(model, changed))
    assert {turn for turn, _ in places} == {1, 2}


@BOTH
def test_everything_learns(mixed: list[Interaction], small: Any, kind: str) -> None:
    model = small(model=kind, transformer_layers=1, transformer_heads=2).train()
    loss(model, model.collate(mixed)).backward()
    still = {name for name, each in model.named_parameters() if each.grad is None}
    zero = {
        name
        for name, each in model.named_parameters()
        if each.grad is not None and not each.grad.any()
    }
    assert not still
    # softmax cancels BERT's key biases but for rounding, which may be exactly zero
    assert {name for name in zero if "key.bias" not in name} <= set()


def test_turns_are_carried(mixed: list[Interaction], small: Any) -> None:
    model = small(merge_turns=1, attend_utterance=False)
    batch = model.collate(mixed[-1:])
    changed = batch | {"ids": batch["ids"].clone()}
    changed["ids"][0, 0, 0, 1] += 1
    # units are those of one turn, so only the session can have carried it
    places = differing(scores(model, batch), scores(model, changed))
    assert {turn for turn, _ in places} == {0, 1, 2}


def test_an_interaction_of_one_turn_and_one_unit(corpus: Corpus, small: Any) -> None:
    model = small()
    one = Interaction("beekeeping", (Turn("", "", ()),), 0)
    batch = model.collate([one])
    assert batch["labels"].tolist() == [[[KEYWORDS.index("_EOS")]]]
    assert loss(model, batch).isfinite()


@BOTH
def test_batches_can_be_cut_into_samples(mixed: list[Interaction], small: Any, kind: str) -> None:
    model = small(model=kind)
    batch = model.collate(mixed)
    assert sample_count(batch) == len(mixed)
    cut = take(batch, [2, 0])
    assert all(len(leaf) == 2 for leaf in leaves(cut).values())
    want = scores(model, batch)[[2, 0]]
    torch.testing.assert_close(scores(model, cut), want, atol=1e-5, rtol=1e-5)


@BOTH
def test_nothing_is_read_from_the_device(mixed: list[Interaction], small: Any, kind: str) -> None:
    model = small(model=kind)
    batch = to_device(model.collate(mixed[:2]), "meta")
    # `.item()`, `bool()` and the like raise on the meta device; transformers asks whether the
    # mask is all true, so BERT stays out
    model = copy.deepcopy(model).to("meta")
    model.encoder.forward = lambda ids, mask, types: torch.randn(
        *ids.shape[:2], ids.shape[2] * ids.shape[3], 16, device="meta"
    )
    loss(model, batch).backward()
    assert model.keyword_head.bias.grad.is_meta


def test_build_draws_from_the_seed(corpus: Corpus, words: list[str], small: Any) -> None:
    config = small().config

    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        model = build(config, corpus, vocabulary=words)
        return torch.cat([each.flatten() for each in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_a_vocabulary_is_taken_as_given(corpus: Corpus, words: list[str], small: Any) -> None:
    model = build(small().config, corpus, vocabulary=words[:-5])
    assert model.collate.vocabulary.words() == words[:-5]
    assert model.encoder.bert.config.vocab_size == len(words) - 5


def test_a_model_can_be_copied(mixed: list[Interaction], small: Any) -> None:
    model = small()
    twin = copy.deepcopy(model)
    assert torch.equal(scores(model, model.collate(mixed)), scores(twin, twin.collate(mixed)))


def test_a_parser_is_found_in_its_wrapper(small: Any) -> None:
    model = small()
    assert parser_of(torch.nn.Sequential(model)) is model
    with pytest.raises(RequestError, match="`model` is a Linear without a Parser in it"):
        parser_of(torch.nn.Linear(1, 1))


def test_kinds(small: Any) -> None:
    assert isinstance(small(), Hierarchical)
    assert isinstance(small(model="seq2seq"), Seq2Seq)
