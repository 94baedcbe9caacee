"""Each fault has the effect that its docstring names; those of spans are in test_schema.py."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model import losses
from model.attention import Attention
from model.collate import Batch
from model.config import Config
from model.faults import Faults
from model.linearise import KEYWORDS
from model.parser import Parser
from model.read import Corpus, Interaction

BOTH = pytest.mark.parametrize("kind", ["hierarchical", "seq2seq"])
HERE = Path(__file__)


@pytest.fixture
def sessions(corpus: Corpus) -> list[Interaction]:
    """Of two databases that differ in their numbers of units."""
    short = [each for each in corpus.interactions if each.database == "beekeeping"]
    long = max(corpus.interactions, key=lambda each: len(corpus.databases[each.database].units))
    return [short[1], long]


def scores(model: Parser, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(batch)["scores"]


def weights(model: Parser) -> list[tuple[str, Tensor]]:
    return [(name, each.detach()) for name, each in model.named_parameters()]


def test_all_are_off_and_each_has_a_test() -> None:
    assert Faults().planted == ()
    planted = set()
    for path in (HERE, HERE.with_name("test_schema.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Faults":
                planted |= {each.arg for each in node.keywords if each.arg is not None}
    names = {each.name for each in fields(Faults)}
    assert planted == names
    documented = {line.split(":")[0].strip() for line in str(Faults.__doc__).splitlines()}
    assert names <= documented


def test_planted_names_those_that_are_on() -> None:
    assert Faults(misaligned=-1, wrong_state=True).planted == ("misaligned", "wrong_state")


@BOTH
def test_no_fault_changes_a_weight(small: Any, kind: str) -> None:
    every = {each.name: 1 if each.name == "misaligned" else True for each in fields(Faults)}
    well, sick = small(model=kind), small(Faults(**every), model=kind)
    for (name, one), (same, other) in zip(weights(well), weights(sick), strict=True):
        assert name == same
        assert torch.equal(one, other)


@BOTH
def test_softmax_then_log_gives_a_nan_gradient(small: Any, sessions: Any, kind: str) -> None:
    sick = small(Faults(softmax_then_log=True), model=kind)
    batch = sick.collate(sessions)
    value = losses.loss(sick, batch)
    assert value.isfinite()  # no gold step underflows, but a padded unit's probability is zero
    value.backward()
    assert sick.keyword_head.bias.grad.isnan().any()
    well = small(model=kind)
    losses.loss(well, batch).backward()
    assert well.keyword_head.bias.grad.isfinite().all()


def test_softmax_then_log_without_padding_needs_an_underflow(small: Any, sessions: Any) -> None:
    sick = small(Faults(softmax_then_log=True))
    batch = sick.collate(sessions[:1])
    losses.loss(sick, batch).backward()
    assert sick.keyword_head.bias.grad.isfinite().all()
    sick.keyword_head.bias.data[0] += 200
    assert losses.loss(sick, batch).isinf()


@BOTH
def test_wrong_state_forgets_all_but_the_last_step(small: Any, sessions: Any, kind: str) -> None:
    sick, well = small(Faults(wrong_state=True), model=kind), small(model=kind)
    batch = sick.collate(sessions[:1])
    last = batch["turn_mask"].shape[1] - 1  # no later turn attends to it
    changed = batch | {"inputs": batch["inputs"].clone()}
    changed["inputs"][0, last, 1] = KEYWORDS.index("union")

    def follow(model: Parser) -> list[bool]:
        apart = (scores(model, batch) - scores(model, changed))[0, last].abs().amax(-1) > 1e-6
        return apart.tolist()

    steps = batch["inputs"].shape[2]
    assert follow(sick) == [False, True] + [False] * (steps - 2)
    assert follow(well) == [False] + [True] * (steps - 1)


def test_padded_rows_averaged() -> None:
    config = Config(width=8)
    torch.manual_seed(0)
    sick = Attention(config, Faults(padded_rows_averaged=True))
    well = Attention(config, Faults())
    well.load_state_dict(sick.state_dict())
    reading, read = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[True, True, False, True, False], [False] * 5])
    torch.testing.assert_close(sick(reading, read, mask)[0], well(reading, read, mask)[0])
    torch.testing.assert_close(sick(reading, read, mask)[1], read[1].mean(0).expand(3, 8))
    assert not well(reading, read, mask)[1].any()


@BOTH
def test_padded_rows_averaged_reaches_the_outputs(small: Any, sessions: Any, kind: str) -> None:
    """A turn that says nothing reads the padding of its utterance."""
    sick, well = small(Faults(padded_rows_averaged=True), model=kind), small(model=kind)
    batch = sick.collate(sessions)
    silent = batch | {"utterance_mask": torch.zeros_like(batch["utterance_mask"])}
    apart = (scores(sick, silent) - scores(well, silent)).abs().max()
    assert apart > 1e-3


@BOTH
def test_pad_position_leak(small: Any, sessions: Any, kind: str) -> None:
    sick, well = small(Faults(pad_position_leak=True), model=kind), small(model=kind)
    batch = sick.collate(sessions)
    padding = ~batch["token_mask"]
    assert padding[0, 0].any()
    changed = batch | {"ids": batch["ids"].masked_fill(padding, 7)}
    there = batch["step_mask"]
    assert torch.equal(scores(well, batch)[there], scores(well, changed)[there])
    assert (scores(sick, batch)[there] - scores(sick, changed)[there]).abs().max() > 1e-3


@BOTH
def test_lost_gold(small: Any, corpus: Corpus, kind: str) -> None:
    sick, well = small(Faults(lost_gold=True), model=kind), small(model=kind)
    naming = [
        each
        for each in corpus.interactions
        if any(step.endswith(".*") for turn in each.turns for step in turn.steps)
    ][:2]
    names = {sick.collate.unit_names[i] for i in sick.collate(naming)["unit_ids"].flatten()}
    assert not any(name.endswith(".*") for name in names)
    assert "*" in names

    def unlabelled(model: Parser) -> int:
        batch = model.collate(naming)
        return int((batch["step_mask"] & (batch["labels"] < 0)).sum())

    assert unlabelled(well) == 0
    gold = [step for each in naming for turn in each.turns for step in turn.steps]
    assert unlabelled(sick) == sum(step.endswith(".*") for step in gold) > 0


@BOTH
def test_key_drowns_db(small: Any, sessions: Any, kind: str) -> None:
    sick, well = small(Faults(key_drowns_db=True), model=kind), small(model=kind)
    batch = sick.collate(sessions)

    def norm(model: Parser, part: str) -> Tensor:
        model.zero_grad()
        getattr(losses, part)(model, batch).backward()
        grads = [each.grad for each in model.parameters() if each.grad is not None]
        return torch.stack([each.norm() for each in grads]).norm()

    torch.testing.assert_close(norm(sick, "key"), norm(well, "key"))
    outputs = len(KEYWORDS) + batch["unit_mask"].shape[1]
    torch.testing.assert_close(norm(sick, "db") * outputs, norm(well, "db"))


def test_mask_without_effect() -> None:
    config = Config(width=8, hard_attention=False)
    torch.manual_seed(0)
    sick = Attention(config, Faults(mask_without_effect=True))
    well = Attention(config, Faults())
    well.load_state_dict(sick.state_dict())
    reading, read = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    every = torch.ones(2, 5, dtype=torch.bool)
    some = every.clone()
    some[:, 3:] = False
    assert torch.equal(sick(reading, read, some), sick(reading, read, every))
    assert torch.equal(sick(reading, read, every), well(reading, read, every))
    assert not torch.allclose(well(reading, read, some), well(reading, read, every))


@BOTH
def test_mask_without_effect_lets_padding_change_outputs(
    small: Any, sessions: Any, kind: str
) -> None:
    sick = small(Faults(mask_without_effect=True), model=kind)
    alone, both = sick.collate(sessions[:1]), sick.collate(sessions)
    there = alone["step_mask"][0]
    want = scores(sick, alone)[0]
    t, j, outputs = want.shape
    found = scores(sick, both)[0, :t, :j, :outputs]
    assert (found[there] - want[there]).abs().max() > 1e-3


def test_first_turn_without_pre_turn(small: Any, sessions: Any) -> None:
    fault = Faults(first_turn_without_pre_turn=True)
    sick, well = small(fault), small()
    batch = sick.collate(sessions[:1])
    changed = batch | {"pre_ids": batch["pre_ids"].clone()}
    changed["pre_ids"][0, 0, 0, 2:] = changed["pre_ids"][0, 0, 0, 2:].roll(1)

    def turns(model: Parser) -> list[bool]:
        apart = (scores(model, batch) - scores(model, changed))[0].abs() > 1e-6
        return apart.flatten(1).any(1).tolist()

    count = batch["turn_mask"].shape[1]
    assert turns(well) == [True] * count
    assert turns(sick) == [False] + [True] * (count - 1)
    assert not sick.read(batch).previous_mask[0].any()
    assert well.read(batch).previous_mask[0].any()
