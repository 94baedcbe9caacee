"""Every field of the configuration changes the computation that it names.

A field's test is called `test_FIELD` here, or stands in `ELSEWHERE` with its file; weights of the
same name and shape are the same on both sides of each comparison.
"""

from __future__ import annotations

import ast
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model import losses
from model.collate import Batch
from model.config import Config
from model.linearise import KEYWORDS
from model.network import Hierarchical, build
from model.optimise import clipped
from model.parser import Parser
from model.read import Corpus, Interaction
from model.seq2seq import Seq2Seq

HERE = Path(__file__)
ELSEWHERE = {
    "seed": ("test_order.py", "test_tiny_sets_of_one_seed_are_nested_and_seeds_differ"),
    "shuffle": ("test_order.py", "test_shuffle_changes_the_order_every_epoch_and_repeats_by_seed"),
    "tiny_dataset": ("test_order.py", "test_tiny_sets_of_one_seed_are_nested_and_seeds_differ"),
    "same_database": ("test_order.py", "test_same_database"),
    "batch_size": ("test_order.py", "test_an_epoch_sees_everything_once"),
    "validation": ("test_order.py", "test_validation_is_held_out"),
    "steps": ("test_optimise.py", "test_schedule_moves_both_rates"),
    "lr": ("test_optimise.py", "test_bert_has_a_rate_of_its_own"),
    "bert_lr": ("test_optimise.py", "test_bert_has_a_rate_of_its_own"),
    "schedule": ("test_optimise.py", "test_schedule_moves_both_rates"),
    "warmup": ("test_optimise.py", "test_factor"),
    "clip": ("test_optimise.py", "test_scope_of_clipping"),
    "encoder": ("test_encoder.py", "test_an_encoder_from_a_folder"),
}
"""Field -> file and test."""


def test_every_field_has_a_test() -> None:
    here = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    for name in (each.name for each in fields(Config)):
        if name in ELSEWHERE:
            file, test = ELSEWHERE[name]
            assert f"{name}=" in source_of(HERE.with_name(file), test), name
        else:
            assert name in here, name


def source_of(path: Path, test: str) -> str:
    """A test's source with its parameters; nothing where there is no such test."""
    lines = path.read_text("utf-8").splitlines()
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, ast.FunctionDef) and node.name == test:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            return "\n".join(lines[first - 1 : node.end_lineno])
    return ""


@pytest.fixture(scope="module")
def sessions(corpus: Corpus) -> list[Interaction]:
    """Two interactions of three turns or more, over databases of different sizes."""
    long = [each for each in corpus.interactions if len(each.turns) > 2]
    size = {name: len(database.units) for name, database in corpus.databases.items()}
    ordered = sorted(long, key=lambda each: (size[each.database], each.index))
    return [ordered[0], ordered[-1]]


def scores(model: Parser, batch: Batch) -> Tensor:
    """At the steps that are there, of outputs that are: (step, output), flat."""
    with torch.no_grad():
        found = model(batch)["scores"][batch["step_mask"]]
    return found[found > torch.finfo(found.dtype).min]


def apart(first: Parser, second: Parser, sessions: list[Interaction]) -> float:
    """How far the scores of two models are from each other at most."""
    one, other = (scores(model, model.collate(sessions)) for model in (first, second))
    return float((one - other).abs().max())


def followed(model: Parser, sessions: list[Interaction], key: str, turn: int) -> set[int]:
    """The turns of the first sample whose scores follow a turn's entries in the batch."""
    batch = model.collate(sessions[:1])
    changed = batch | {key: batch[key].clone()}
    changed[key][0, turn, ..., 1:4] = changed[key][0, turn, ..., 1:4].roll(1, -1)
    with torch.no_grad():
        difference = (model(batch)["scores"] - model(changed)["scores"])[0].abs()
    return set((difference.flatten(1).amax(1) > 1e-6).nonzero()[:, 0].tolist())


# which model, and what is read


def test_model(small: Any) -> None:
    assert isinstance(small(model="hierarchical"), Hierarchical)
    assert isinstance(small(model="seq2seq"), Seq2Seq)


def test_max_turn(small: Any, sessions: Any) -> None:
    whole, one = small().collate(sessions), small(max_turn=1).collate(sessions)
    assert whole["turn_mask"].sum(1).tolist() == [len(each.turns) for each in sessions]
    assert one["turn_mask"].tolist() == [[True], [True]]
    t, j = 1, one["labels"].shape[2]
    assert torch.equal(one["labels"], whole["labels"][:, :t, :j])


# the loss


@pytest.mark.parametrize("kind", ["key", "db", "by_count", "by_size"])
def test_loss(small: Any, sessions: Any, kind: str) -> None:
    model, other = small(), small(loss=kind)
    batch = model.collate(sessions)
    found, want = losses.loss(other, batch), losses.loss(model, batch)
    assert not torch.isclose(found, want)


def test_reduction(small: Any, sessions: Any) -> None:
    model, other = small(), small(reduction="sum")
    batch = model.collate(sessions)
    steps = batch["step_mask"].sum()
    torch.testing.assert_close(losses.loss(other, batch), losses.loss(model, batch) * steps)


def test_softmax(small: Any, sessions: Any) -> None:
    """The same where nothing underflows; bounded by the noise where something does."""
    safe, noisy = small(), small(softmax="softmax_log", noise=1e-4)
    batch = safe.collate(sessions)
    for model in (safe, noisy):
        model.keyword_head.bias.data[0] += 1e3
    with torch.no_grad():
        assert float(safe(batch)["log_probs"].min()) < -900
        assert float(noisy(batch)["log_probs"].min()) == pytest.approx(-9.21, abs=0.01)


def test_noise(small: Any, sessions: Any) -> None:
    bare = small(softmax="softmax_log", noise=0.0)
    batch = bare.collate(sessions)
    losses.loss(bare, batch).backward()
    assert bare.keyword_head.bias.grad.isnan().any()  # of the padded units' log
    noisy = small(softmax="softmax_log", noise=1e-8)
    losses.loss(noisy, batch).backward()
    assert noisy.keyword_head.bias.grad.isfinite().all()


# optimisation


def test_clip_norm(small: Any, sessions: Any) -> None:
    model = small(clip_norm=0.01)
    losses.loss(model, model.collate(sessions)).backward()
    parameters = clipped(model.config, model)
    before = nn.utils.clip_grad_norm_(parameters, model.config.clip_norm)
    after = torch.stack([each.grad.norm() for each in parameters]).norm()
    assert before > 0.02
    assert float(after) == pytest.approx(0.01, rel=1e-3)


# the encoder


def test_bert_frozen(small: Any, sessions: Any) -> None:
    def taught(model: Parser) -> bool:
        losses.loss(model, model.collate(sessions)).backward()
        return any(each.grad is not None for each in model.encoder.parameters())

    assert taught(small())
    assert not taught(small(bert_frozen=True))


def test_bert_layers(small: Any, sessions: Any) -> None:
    one, two = small(), small(bert_layers=2)
    assert len(two.encoder.bert.encoder.layer) == 2
    assert apart(one, two, sessions) > 1e-3


def test_bert_width(small: Any, sessions: Any) -> None:
    model = small(bert_width=24)
    batch = model.collate(sessions)
    hidden = model.encoder(batch["ids"], batch["token_mask"], batch["token_types"])
    assert hidden.shape[-1] == 24


def test_bert_heads(small: Any, sessions: Any) -> None:
    assert apart(small(bert_heads=2), small(bert_heads=4), sessions) > 1e-4


def test_vocabulary(small: Any, sessions: Any) -> None:
    few, many = small(vocabulary=200), small(vocabulary=600)
    assert len(few.collate.vocabulary.words()) == few.encoder.bert.config.vocab_size == 200
    assert len(many.collate.vocabulary.words()) == 600
    assert few.collate(sessions)["ids"].shape[-1] > many.collate(sessions)["ids"].shape[-1]


def test_bert_dropout(small: Any, sessions: Any) -> None:
    def wavers(p: float) -> bool:
        model = small(bert_dropout=p).train()
        batch = model.collate(sessions)
        return not torch.equal(scores(model, batch), scores(model, batch))

    assert wavers(0.2)
    assert not wavers(0.0)


def test_max_pieces(small: Any, sessions: Any) -> None:
    whole, split = small().collate(sessions), small(max_pieces=32).collate(sessions)
    assert split["ids"].shape[-1] <= 32 < whole["ids"].shape[-1]
    assert split["ids"].shape[-2] > whole["ids"].shape[-2] == 1
    assert torch.equal(split["unit_piece_mask"], whole["unit_piece_mask"])


def test_repeat_utterance(small: Any, sessions: Any) -> None:
    again, once = small(max_pieces=32), small(max_pieces=32, repeat_utterance=False)
    heads = [(model.collate(sessions)["token_types"] == 0) for model in (again, once)]
    there = [model.collate(sessions)["token_mask"] for model in (again, once)]
    told = [(head & mask)[0, 0].sum(-1) for head, mask in zip(heads, there, strict=True)]
    assert told[0][1] == told[0][0] > 2
    assert told[1][1] == 2  # [CLS] [SEP]
    assert apart(again, once, sessions) > 1e-3


# the schema


def test_pooling(small: Any, sessions: Any) -> None:
    mean, total = small(), small(pooling="sum")
    batch = mean.collate(sessions)
    hidden = mean.encoder(batch["ids"], batch["token_mask"], batch["token_types"])
    places, there = batch["unit_pieces"], batch["unit_piece_mask"]
    count = there.sum(-1, keepdim=True)
    found = total.schema.pool(hidden, places, there)
    torch.testing.assert_close(found, mean.schema.pool(hidden, places, there) * count)
    assert apart(mean, total, sessions) > 1e-3


def test_width(small: Any, sessions: Any) -> None:
    model = small(width=24)
    memory = model.read(model.collate(sessions))
    assert memory.units.shape[-1] == memory.utterance.shape[-1] == memory.start[0].shape[-1] == 24


def test_pre_transform(small: Any, sessions: Any) -> None:
    first, after = small(bert_width=24), small(bert_width=24, pre_transform=False)
    assert first.schema.kind.weight.shape[1] == first.schema.distance.weight.shape[1] == 16
    assert after.schema.kind.weight.shape[1] == after.schema.distance.weight.shape[1] == 24
    assert first.schema.transform.weight.shape == (16, 24)
    assert not list(after.schema.transform.parameters())
    assert after.read(after.collate(sessions)).units.shape[-1] == 16


@pytest.mark.parametrize("count", [1, 2])
def test_transformer_layers(small: Any, sessions: Any, count: int) -> None:
    """With them, units read each other."""
    none, some = small(), small(transformer_layers=count, transformer_heads=2)
    assert (len(none.schema.layers), len(some.schema.layers)) == (0, count)
    assert apart(none, some, sessions) > 1e-3


def test_transformer_heads(small: Any, sessions: Any) -> None:
    one, four = (small(transformer_layers=1, transformer_heads=n) for n in (1, 4))
    assert apart(one, four, sessions) > 1e-4


def test_merge(small: Any, sessions: Any) -> None:
    concat, add = small(merge="concat"), small(merge="add")
    assert concat.schema.join.weight.shape == (16, 2 * 16)
    assert add.schema.join.weight.shape == (16, 16)
    seen = torch.randn(1, 3, 4, 16)
    joined = concat.schema.join.weight.data
    joined.copy_(torch.cat([add.schema.join.weight.data] * 2, 1))  # then they are one
    concat.schema.join.bias.data.copy_(add.schema.join.bias.data)
    torch.testing.assert_close(concat.schema.merge(seen), add.schema.merge(seen))
    joined[:, 16:] *= 2
    assert not torch.allclose(concat.schema.merge(seen), add.schema.merge(seen))


@pytest.mark.parametrize("kind", ["concat", "add"])
def test_merge_turns(small: Any, kind: str) -> None:
    seen = torch.randn(1, 4, 3, 16)
    changed = seen.clone()
    changed[:, 0] += 1
    for turns in (1, 2, 3):
        schema = small(merge=kind, merge_turns=turns).schema
        differ = (schema.merge(seen) - schema.merge(changed)).abs().amax((0, 2, 3)) > 1e-6
        assert differ.nonzero()[:, 0].tolist() == list(range(turns))


@pytest.mark.parametrize("kind", ["concat", "add"])
def test_utterance_mask(small: Any, sessions: Any, kind: str) -> None:
    """Changes nothing, by design: what it masks is zero already.

    Scores and loss are equal to the bit, and so are gradients, but for the order of a sum.
    """
    on, off = (small(merge=kind, merge_turns=3, utterance_mask=each) for each in (True, False))
    batch = on.collate(sessions)
    assert torch.equal(scores(on, batch), scores(off, batch))
    assert torch.equal(losses.loss(on, batch), losses.loss(off, batch))
    for model in (on, off):
        losses.loss(model, batch).backward()
    for one, other in zip(on.parameters(), off.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, atol=1e-7, rtol=1e-5)


# the decoder


def test_pre_turn(small: Any, sessions: Any) -> None:
    with_one, without = small(), small(pre_turn=False)
    assert followed(with_one, sessions, "pre_ids", 0) == set(range(len(sessions[0].turns)))
    assert "pre_ids" not in without.collate(sessions)
    assert not without.read(without.collate(sessions)).previous_mask[0].any()
    assert "pre_ids" not in small(model="seq2seq").collate(sessions)


def test_state_pooling(small: Any, sessions: Any) -> None:
    assert apart(small(), small(state_pooling="sum"), sessions) > 1e-3


@pytest.mark.parametrize("kind", ["hierarchical", "seq2seq"])
@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_state_mask(small: Any, sessions: Any, kind: str, pooling: str) -> None:
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


def test_dropout(small: Any, sessions: Any) -> None:
    def wavers(p: float) -> bool:
        model = small(dropout=p, transformer_layers=1, transformer_heads=2).train()
        batch = model.collate(sessions)
        return not torch.equal(scores(model, batch), scores(model, batch))

    assert wavers(0.2)
    assert not wavers(0.0)


# the base model


def test_attend_units(small: Any, sessions: Any) -> None:
    reading, not_reading = small(model="seq2seq"), small(model="seq2seq", attend_units=False)
    assert not_reading.attend_units is None
    assert apart(reading, not_reading, sessions) > 1e-3


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


def test_residual_adds(small: Any, sessions: Any) -> None:
    kept, dropped = (small(model="seq2seq", residual=each) for each in (True, False))
    assert apart(kept, dropped, sessions) > 1e-3
