"""Every field of the configuration changes the computation that it names.

A field's test is called `test_FIELD` here or in `DECODER`, or stands in `ELSEWHERE` with its file;
weights of the same name and shape are the same on both sides of each comparison.
"""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from model import losses
from model.config import Config
from model.network import Hierarchical
from model.optimise import clipped
from model.parser import Parser
from model.seq2seq import Seq2Seq

HERE = Path(__file__)
DECODER = HERE.with_name("test_decoder_switches.py")
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
    "bucketing": ("test_order.py", "test_buckets_hold_interactions_of_like_size"),
    "validation_databases": ("test_order.py", "test_whole_databases_are_held_out"),
    "cached": ("test_cached.py", "test_cached"),
    "encoder": ("test_encoder.py", "test_an_encoder_from_a_folder"),
}
"""Field -> file and test."""


def test_every_field_has_a_test() -> None:
    here = {name.removeprefix("test_") for file in (HERE, DECODER) for name in named_in(file)}
    for name in (each.name for each in fields(Config)):
        if name in ELSEWHERE:
            file, test = ELSEWHERE[name]
            assert f"{name}=" in source_of(HERE.with_name(file), test), name
        else:
            assert name in here, name


def named_in(path: Path) -> set[str]:
    """The names of a file's tests."""
    body = ast.parse(path.read_text("utf-8")).body
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    return {name for name in functions if name.startswith("test_")}


def source_of(path: Path, test: str) -> str:
    """A test's source with its parameters; nothing where there is no such test."""
    lines = path.read_text("utf-8").splitlines()
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, ast.FunctionDef) and node.name == test:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            return "\n".join(lines[first - 1 : node.end_lineno])
    return ""


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


def test_bert_layers(small: Any, apart: Any) -> None:
    one, two = small(), small(bert_layers=2)
    assert len(two.encoder.bert.encoder.layer) == 2
    assert apart(one, two) > 1e-3


def test_bert_width(small: Any, sessions: Any) -> None:
    model = small(bert_width=24)
    batch = model.collate(sessions)
    hidden = model.encoder(batch["ids"], batch["token_mask"], batch["token_types"])
    assert hidden.shape[-1] == 24


def test_bert_heads(small: Any, apart: Any) -> None:
    assert apart(small(bert_heads=2), small(bert_heads=4)) > 1e-4


def test_vocabulary(small: Any, sessions: Any) -> None:
    few, many = small(vocabulary=200), small(vocabulary=600)
    assert len(few.collate.vocabulary.words()) == few.encoder.bert.config.vocab_size == 200
    assert len(many.collate.vocabulary.words()) == 600
    assert few.collate(sessions)["ids"].shape[-1] > many.collate(sessions)["ids"].shape[-1]


def test_bert_dropout(small: Any, sessions: Any, scores: Any) -> None:
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


def test_repeat_utterance(small: Any, sessions: Any, apart: Any) -> None:
    again, once = small(max_pieces=32), small(max_pieces=32, repeat_utterance=False)
    heads = [(model.collate(sessions)["token_types"] == 0) for model in (again, once)]
    there = [model.collate(sessions)["token_mask"] for model in (again, once)]
    told = [(head & mask)[0, 0].sum(-1) for head, mask in zip(heads, there, strict=True)]
    assert told[0][1] == told[0][0] > 2
    assert told[1][1] == 2  # [CLS] [SEP]
    assert apart(again, once) > 1e-3


# the schema


def test_pooling(small: Any, sessions: Any, apart: Any) -> None:
    mean, total = small(), small(pooling="sum")
    batch = mean.collate(sessions)
    hidden = mean.encoder(batch["ids"], batch["token_mask"], batch["token_types"])
    places, there = batch["unit_pieces"], batch["unit_piece_mask"]
    count = there.sum(-1, keepdim=True)
    found = total.schema.pool(hidden, places, there)
    torch.testing.assert_close(found, mean.schema.pool(hidden, places, there) * count)
    assert apart(mean, total) > 1e-3


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
def test_transformer_layers(small: Any, count: int, apart: Any) -> None:
    """With them, units read each other."""
    none, some = small(), small(transformer_layers=count, transformer_heads=2)
    assert (len(none.schema.layers), len(some.schema.layers)) == (0, count)
    assert apart(none, some) > 1e-3


def test_transformer_heads(small: Any, apart: Any) -> None:
    one, four = (small(transformer_layers=1, transformer_heads=n) for n in (1, 4))
    assert apart(one, four) > 1e-4


def test_merge(small: Any) -> None:
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
def test_utterance_mask(small: Any, sessions: Any, kind: str, scores: Any) -> None:
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


def test_read_dropout(small: Any, sessions: Any, scores: Any) -> None:
    model, plain = small(read_dropout=0.3), small()
    batch = model.collate(sessions)
    assert torch.equal(scores(model, batch), scores(plain, batch))
    assert not torch.equal(scores(model.train(), batch), scores(model, batch))


LAYERS = {"transformer_layers": 1, "transformer_heads": 2}


def test_joint(small: Any, sessions: Any) -> None:
    """With it, the utterance reads the units, too."""
    for joint in (True, False):
        model = small(joint=joint, **LAYERS)
        batch = model.collate(sessions)
        changed = batch | {"unit_kinds": (batch["unit_kinds"] - 1).clamp(min=0)}
        said, other = (model.read(each).utterance for each in (batch, changed))
        there = batch["utterance_mask"].flatten(0, 1)
        assert torch.equal(said[there], other[there]) != joint


@pytest.mark.parametrize("joint", [True, False])
def test_naming(small: Any, sessions: Any, joint: bool) -> None:
    model = small(naming=True, joint=joint)
    batch = model.collate(sessions)
    assert "unit_namings" not in small().collate(sessions)
    sample, turn, unit = batch["unit_namings"].nonzero()[0].tolist()
    changed = batch | {"unit_namings": batch["unit_namings"].clone()}
    changed["unit_namings"][sample, turn, unit] = 0
    before, after = (model.seen(each)[1] for each in (batch, changed))
    moved = (before - after).abs().amax(-1) > 1e-6  # (n, t, u)
    follow = range(turn, min(turn + 2, len(sessions[sample].turns)))  # it is merged into the next
    assert moved.nonzero().tolist() == [[sample, t, unit] for t in follow]
