"""Every field of the decoder, of the heads and of the base model changes what it names.

Weights of the same name and shape are the same on both sides of each comparison.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.linearise import KEYWORDS
from model.network import build, used
from model.parser import Parser
from model.read import Corpus, Interaction


def followed(model: Parser, sessions: list[Interaction], key: str, turn: int) -> set[int]:
    """The turns of the first sample whose scores follow a turn's entries in the batch."""
    batch = model.collate(sessions[:1])
    changed = batch | {key: batch[key].clone()}
    changed[key][0, turn, ..., 1:4] = changed[key][0, turn, ..., 1:4].roll(1, -1)
    with torch.no_grad():
        difference = (model(batch)["scores"] - model(changed)["scores"])[0].abs()
    return set((difference.flatten(1).amax(1) > 1e-6).nonzero()[:, 0].tolist())


# the decoder


def test_pre_turn(small: Any, sessions: Any) -> None:
    with_one, without = small(), small(pre_turn=False)
    assert followed(with_one, sessions, "pre_ids", 0) == set(range(len(sessions[0].turns)))
    assert "pre_ids" not in without.collate(sessions)
    assert not without.read(without.collate(sessions)).previous_mask[0].any()
    assert "pre_ids" not in small(model="seq2seq").collate(sessions)


def test_state_pooling(small: Any, apart: Any) -> None:
    assert apart(small(), small(state_pooling="sum")) > 1e-3


@pytest.mark.parametrize("kind", ["hierarchical", "seq2seq"])
@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_state_mask(small: Any, sessions: Any, kind: str, pooling: str, scores: Any) -> None:
    """Without it, padding changes the initial state."""
    for masked in (True, False):
        model = small(model=kind, state_mask=masked, state_pooling=pooling)
        batch = model.collate(sessions)
        padded = {
            key: nn.functional.pad(batch[key], (0, 3))
            for key in ("utterance_pieces", "utterance_mask")
        }
        same = torch.allclose(scores(model, batch), scores(model, batch | padded), atol=1e-5)
        assert same == masked


def test_fusion(small: Any, sessions: Any) -> None:
    three, two = small(), small(fusion="two_way")
    assert three.decoder.fuse.weight.shape[1] == two.decoder.fuse.weight.shape[1] + 16
    assert three.decoder.attend_units is not None
    assert two.decoder.attend_units is None
    batch = two.collate(sessions)
    memory = two.read(batch)
    given = torch.randn(len(memory.units), 2, 16)

    def sums_units(model: Any) -> bool:
        other = replace(memory, units=memory.units.roll(1, -1))
        return not torch.equal(model.decoder(memory, given), model.decoder(other, given))

    assert sums_units(three)
    assert not sums_units(two)


def test_attend_utterance(small: Any, sessions: Any) -> None:
    reading, not_reading = small(), small(attend_utterance=False)
    batch = reading.collate(sessions)
    memory = reading.read(batch)
    given = torch.randn(len(memory.units), 2, 16)

    def reads(model: Any) -> bool:
        other = replace(memory, utterance=memory.utterance.roll(1, -1))
        return not torch.equal(model.decoder(memory, given), model.decoder(other, given))

    assert reads(reading)
    assert not reads(not_reading)


@pytest.mark.parametrize("kind", ["hierarchical", "seq2seq"])
def test_attention_mask(small: Any, sessions: Any, kind: str) -> None:
    """Without it, another sample's size changes this one's scores."""
    for masked in (True, False):
        model = small(model=kind, attention_mask=masked)
        alone, both = model.collate(sessions[:1]), model.collate(sessions)
        there = alone["step_mask"][0]
        want = model(alone)["scores"][0]
        t, j, outputs = want.shape
        found = model(both)["scores"][0, :t, :j, :outputs]
        assert torch.allclose(found[there], want[there], atol=1e-5) == masked


def test_hard_attention(small: Any) -> None:
    """A row that is masked throughout gives zeros with it, the average of its padding without."""
    hard, soft = small(), small(hard_attention=False)
    reading, read = torch.randn(1, 2, 16), torch.randn(1, 3, 16)
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert not hard.decoder.attend_units(reading, read, nothing).any()
    average = read.mean(1, keepdim=True).expand(1, 2, 16)
    torch.testing.assert_close(soft.decoder.attend_units(reading, read, nothing), average)


@pytest.mark.parametrize("kind", ["hierarchical", "seq2seq"])
def test_join_input(small: Any, sessions: Any, kind: str) -> None:
    joined, apart_ = small(model=kind), small(model=kind, join_input=False)
    memory = joined.read(joined.collate(sessions))
    given = torch.zeros(len(memory.units), 1, 16)
    outputs = [model.outputs(memory, given) for model in (joined, apart_)]
    decoder = joined.decoder if kind == "hierarchical" else joined
    both = torch.cat([outputs[1], given], -1)
    torch.testing.assert_close(outputs[0], decoder.join(both).tanh())


def test_unit_score(small: Any) -> None:
    output, units = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    mask = torch.ones(2, 5, dtype=torch.bool)
    dot, linear, bilinear = (
        small(unit_score=each).unit_head for each in ("dot", "linear", "bilinear")
    )
    want = torch.einsum("rjd,rud->rju", output, units)
    torch.testing.assert_close(dot(output, units, mask), want)
    turned = output @ linear.transform.weight.T + linear.transform.bias
    want = torch.einsum("rjd,rud->rju", turned, units)
    torch.testing.assert_close(linear(output, units, mask), want)
    want = torch.einsum("rjd,de,rue->rju", output, bilinear.form, units)
    torch.testing.assert_close(bilinear(output, units, mask), want)


def test_keyword_init(small: Any) -> None:
    free, bert, concat = (small(keyword_init=each) for each in ("free", "bert", "concat"))
    assert torch.equal(free.keywords(), free.keywords.free.weight)
    assert bert.keywords.free is None
    assert concat.keywords.join.weight.shape[1] == 16 + 16
    for model in (bert, concat):
        assert model.keywords.encoded.shape == (len(KEYWORDS), 16)
        assert not model.keywords.encoded.requires_grad
        before = model.keywords()
        model.keywords.encoded += 1
        assert not torch.equal(before, model.keywords())


def test_keywords_of_bert_are_its_words(corpus: Corpus, words: list[str], small: Any) -> None:
    torch.manual_seed(0)
    model = build(small(keyword_init="bert").config, corpus, vocabulary=words)
    vectors = model.encoder.words(("select", "group_by"), model.collate.vocabulary)
    rows = [KEYWORDS.index("select"), KEYWORDS.index("group_by")]
    torch.testing.assert_close(model.keywords.encoded[rows], vectors)
    assert "keywords.encoded" in model.state_dict()


def test_dropout(small: Any, sessions: Any, scores: Any) -> None:
    def wavers(p: float) -> bool:
        model = small(dropout=p, transformer_layers=1, transformer_heads=2).train()
        batch = model.collate(sessions)
        return not torch.equal(scores(model, batch), scores(model, batch))

    assert wavers(0.2)
    assert not wavers(0.0)


# the base model


def test_attend_units(small: Any, apart: Any) -> None:
    reading, not_reading = small(model="seq2seq"), small(model="seq2seq", attend_units=False)
    assert not_reading.attend_units is None
    assert apart(reading, not_reading) > 1e-3


def test_residual(small: Any, sessions: Any) -> None:
    """Without it, an utterance over a database without units says nothing."""
    batch = small(model="seq2seq").collate(sessions)
    hidden = batch | {"unit_mask": torch.zeros_like(batch["unit_mask"])}

    def utterances(residual: bool) -> Tensor:
        memory = small(model="seq2seq", residual=residual).read(hidden)
        there = memory.utterance_mask[:, 0]
        return memory.utterance[there, 0]

    said = utterances(False)
    assert torch.allclose(said, said[:1].expand_as(said))
    assert not torch.allclose(utterances(True), said)


def test_residual_adds(small: Any, apart: Any) -> None:
    kept, dropped = (small(model="seq2seq", residual=each) for each in (True, False))
    assert apart(kept, dropped) > 1e-3


# what it knows of earlier queries


def test_used(small: Any, sessions: Any) -> None:
    model = small(used=True)
    batch = model.collate(sessions)
    there = batch["step_mask"]
    marked = used(batch["inputs"], there, batch["unit_mask"].shape[1])
    padded = batch["inputs"].masked_fill(~there, len(KEYWORDS))  # hidden, whatever stands there
    assert torch.equal(used(padded, there, batch["unit_mask"].shape[1]), marked)
    for sample, each in enumerate(sessions):
        names = [model.collate.unit_names[i] for i in batch["unit_ids"][sample].tolist()]
        before = [(), *(turn.steps for turn in each.turns[:-1])]
        for turn, steps in enumerate(before):
            found = {names[u] for u in marked[sample, turn].nonzero()[:, 0].tolist()}
            assert found == {*steps} & {*names}
    signal = model.read(batch).units - small().read(batch).units
    want = model.used(marked).flatten(0, 1)
    torch.testing.assert_close(signal, want, atol=1e-5, rtol=1e-5)


def test_query_reader(small: Any) -> None:
    """Each step is read with those on either side of it, and no padding."""
    reader = small(query_reader=True).query_reader
    steps, there = torch.randn(2, 5, 16), torch.arange(5) < torch.tensor([[5], [3]])
    found = reader(steps, there)
    alone = reader(steps[1:, :3], there[1:, :3])
    torch.testing.assert_close(found[1:, :3], alone)
    for place in range(5):
        changed = steps.clone()
        changed[0, place] += 1
        moved = (reader(changed, there) - found).abs().amax(-1) > 1e-6
        assert moved.tolist() == [[True] * 5, [False] * 5]
    assert small().query_reader is None


def test_copying(small: Any, sessions: Any) -> None:
    """With the gate open, the likeliest step is one of an earlier query's."""
    model = small(copying=True, pre_turn=False)
    batch = model.collate(sessions)
    model.copying.gate.weight.data.zero_()
    model.copying.gate.bias.data.fill_(100.0)
    log_probs = model(batch)["log_probs"]
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones_like(log_probs[..., 0]))
    likeliest = log_probs.argmax(-1)
    for sample in range(len(sessions)):
        for turn in range(1, len(sessions[sample].turns)):
            earlier = batch["inputs"][sample, :turn][batch["step_mask"][sample, :turn]]
            assert set(likeliest[sample, turn].tolist()) <= set(earlier.tolist())
    found, plain = (each.exp() for each in (log_probs, small(pre_turn=False)(batch)["log_probs"]))
    torch.testing.assert_close(found[:, 0], plain[:, 0])  # nothing is before the first turn
    assert (found[:, 1] - plain[:, 1]).abs().max() > 0.1


def test_second_cell(small: Any, sessions: Any, apart: Any) -> None:
    assert apart(small(), small(second_cell=True)) > 1e-3
