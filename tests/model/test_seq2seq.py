from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from model.read import Corpus


@pytest.fixture
def model(small: Any) -> Any:
    return small(model="seq2seq")


@pytest.fixture
def batch(model: Any, corpus: Corpus) -> Any:
    return model.collate(corpus.interactions[:6])


def test_no_gold_query_of_another_turn_is_read(model: Any, batch: Any) -> None:
    changed = batch | {"inputs": batch["inputs"].roll(1, 1)}
    first, second = model.read(batch), model.read(changed)
    assert torch.equal(first.start[0], second.start[0])
    assert torch.equal(first.utterance, second.utterance)
    assert first.previous is None


def test_the_reader_is_undisturbed_by_padding(model: Any, batch: Any) -> None:
    memory = model.read(batch)
    lengths = memory.utterance_mask.sum(1)
    assert int((lengths < lengths.max()).sum()) > 0
    given: list[Any] = []
    model.reader.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    model.read(batch)
    there = lengths > 0
    packed = nn.utils.rnn.pack_padded_sequence(
        given[0][there], lengths[there], batch_first=True, enforce_sorted=False
    )
    want, _ = nn.utils.rnn.pad_packed_sequence(model.reader(packed)[0], batch_first=True)
    mask = memory.utterance_mask[there]
    torch.testing.assert_close(memory.utterance[there][mask], want[mask], atol=1e-6, rtol=1e-5)


def test_the_query_starts_from_the_mean_of_what_was_read(model: Any, batch: Any) -> None:
    memory = model.read(batch)
    first = memory.utterance[0][memory.utterance_mask[0]]
    torch.testing.assert_close(memory.start[0][0], first.mean(0))
    assert not memory.start[1].any()


def test_units_of_earlier_turns_are_merged(small: Any, corpus: Corpus) -> None:
    """All that a turn knows of the turns before it."""

    def follows(turns: int) -> bool:
        model = small(model="seq2seq", merge_turns=turns)
        batch = model.collate(corpus.interactions[:1])
        changed = batch | {"ids": batch["ids"].clone()}
        changed["ids"][0, 0, 0, 1] += 1
        difference = (model(batch)["scores"] - model(changed)["scores"])[0, 1]
        return bool((difference.abs() > 1e-6).any())

    assert follows(2)
    assert not follows(1)


def test_sites_have_names(model: Any) -> None:
    names = {name for name, _ in model.named_modules()}
    assert {"reader", "writer", "attend_units", "attend_utterance", "keyword_head"} <= names
