from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest
import torch

from model.config import Config
from model.experiments import PATH, Experiment, experiment, experiments, read
from model.faults import Faults
from model.losses import loss
from model.network import build
from model.optimise import clipped, optimizer, schedule
from model.order import batches, split
from model.read import Corpus
from probes.errors import RequestError

RUNS = [
    "Oct29_15-59-28",
    "Oct29_19-17-39",
    "Oct29_19-58-43",
    "Oct29_20-12-27",
    "Oct29_21-20-14",
    "Oct29_22-10-05",
    "Oct30_00-18-44",
    "Oct30_00-34-47",
    "Oct30_01-00-59",
    "Oct30_01-22-06",
    "Oct30_02-11-18",
    "Oct30_02-25-59",
    "Oct30_11-54-46",
    "Oct30_12-58-25",
    "Oct30_19-26-11",
    "Oct30_21-58-14",
    "Nov02_12-35-43",
    "Nov02_13-00-24",
    "Nov02_13-24-37",
    "Nov02_15-07-04",
    "Nov02_15-38-51",
    "Nov02_17-51-49",
    "Nov02_18-14-32",
    "Nov02_18-23-30",
    "Nov02_19-26-42",
    "Nov02_20-17-13",
    "Nov02_20-34-51",
    "Nov02_20-41-28",
    "Nov02_21-03-10",
    "weighted-loss",
    "30a",
    "30b",
    "30c",
]
FIELDS = [each.name for each in fields(Config)]


def test_every_run_of_the_log_is_there_in_its_order() -> None:
    assert [each.name for each in experiments()] == RUNS


@pytest.mark.parametrize("run", experiments(), ids=lambda run: run.name)
def test_every_field_is_written_out_and_marked(run: Experiment) -> None:
    assert sorted(run.marks) == sorted(FIELDS)
    assert run.remark.isascii()
    assert run.remark.endswith(".")


def test_the_marks_tell_the_truth() -> None:
    """Carried: an earlier run stated this very value. Inferred: none did since it changed."""
    stated: dict[str, Any] = {}
    for run in experiments():
        for name in FIELDS:
            value, mark = getattr(run.config, name), run.marks[name]
            if mark == "stated":
                stated[name] = value
            elif mark == "carried":
                assert name in stated, (run.name, name)
                assert stated[name] == value, (run.name, name)
            else:
                stated.pop(name, None)


def test_every_run_changes_something() -> None:
    runs = experiments()
    for before, run in itertools.pairwise(runs):
        assert (run.config, run.faults) != (before.config, before.faults), run.name


# what the entries say, picked by hand from the log
@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("Oct29_19-17-39", {"pre_turn": True, "join_input": True, "unit_score": "linear"}),
        ("Oct29_19-58-43", {"clip": "all_but_bert"}),
        ("Oct29_20-12-27", {"bert_frozen": True, "clip": "all_but_bert"}),
        ("Oct29_21-20-14", {"loss": "db"}),
        ("Oct29_22-10-05", {"loss": "sum"}),
        ("Oct30_00-18-44", {"utterance_mask": True, "merge": "concat"}),
        ("Oct30_00-34-47", {"shuffle": True}),
        ("Oct30_01-00-59", {"shuffle": False, "merge": "add"}),
        ("Oct30_02-11-18", {"tiny_dataset": 5}),
        ("Oct30_02-25-59", {"tiny_dataset": 20, "softmax": "softmax_log"}),
        ("Oct30_11-54-46", {"softmax": "log_softmax", "lr": 1e-4, "tiny_dataset": 20}),
        ("Oct30_12-58-25", {"clip": "none", "warmup": 0, "lr": 1e-5}),
        ("Oct30_19-26-11", {"utterance_mask": False}),
        ("Oct30_21-58-14", {"state_mask": True, "hard_attention": True, "transformer_layers": 2}),
        ("Nov02_12-35-43", {"pre_transform": True, "transformer_layers": 2, "validation": 0}),
        ("Nov02_13-00-24", {"pre_transform": False, "transformer_layers": 2}),
        ("Nov02_13-24-37", {"pre_transform": True, "transformer_layers": 0}),
        ("Nov02_15-07-04", {"keyword_init": "bert", "transformer_layers": 0}),
        ("Nov02_15-38-51", {"tiny_dataset": False, "keyword_init": "free", "bert_frozen": False}),
        ("Nov02_17-51-49", {"pooling": "mean", "state_pooling": "mean"}),
        ("Nov02_18-14-32", {"lr": 1e-3, "tiny_dataset": False}),
        ("Nov02_18-23-30", {"lr": 1e-3, "tiny_dataset": True}),
        ("Nov02_19-26-42", {"max_turn": 1}),
        ("Nov02_20-17-13", {"state_pooling": "sum", "max_turn": 1}),
        ("Nov02_20-34-51", {"attend_utterance": True, "max_turn": 1}),
        ("Nov02_20-41-28", {"attend_utterance": True, "max_turn": None}),
        ("Nov02_21-03-10", {"fusion": "two_way"}),
        ("weighted-loss", {"model": "seq2seq", "shuffle": True, "max_turn": 1}),
        ("30a", {"model": "seq2seq", "loss": "sum", "attend_units": True, "residual": True}),
        ("30b", {"attend_units": False, "residual": False, "attention_mask": True}),
        ("30c", {"attend_units": False, "residual": False, "attention_mask": False}),
    ],
)
def test_what_the_entry_says(name: str, want: Mapping[str, Any]) -> None:
    config = experiment(name).config
    assert {key: getattr(config, key) for key in want} == want


def test_the_bugs_are_planted_until_they_were_found() -> None:
    found = {
        "softmax_then_log": "Oct30_02-25-59",
        "unit_index_offset": "Oct30_12-58-25",
        "padded_rows_averaged": "Oct30_19-26-11",
        "misaligned": "weighted-loss",
        "wrong_state": "weighted-loss",
    }
    for number, run in enumerate(experiments()):
        want = {fault for fault, last in found.items() if number <= RUNS.index(last)}
        assert set(run.faults.planted) == want, run.name
    assert set(found) <= {each.name for each in fields(Faults)}


def test_an_unknown_run_gets_a_sentence_with_the_closest() -> None:
    with pytest.raises(RequestError) as error:
        experiment("Oct30_02-25-58")
    assert str(error.value).startswith(
        "`Oct30_02-25-58` is no run of the log: expected one of the 33 names in "
        "`experiments.toml`, closest: Oct30_02-25-59"
    )


def table() -> dict[str, Any]:
    with PATH.open("rb") as file:
        return dict(tomllib.load(file)["30a"])


def test_a_missing_or_double_field_is_refused() -> None:
    lacking = table()
    del lacking["stated"]["loss"]
    with pytest.raises(RequestError, match="run `x` lacks `loss`"):
        read("x", lacking)
    double = table()
    double["inferred"]["loss"] = "sum"
    with pytest.raises(RequestError, match="`loss` of run `x` stands twice"):
        read("x", double)


def test_a_wrong_value_is_refused() -> None:
    wrong = table()
    wrong["stated"]["loss"] = "total"
    with pytest.raises(RequestError, match="`loss` is 'total'"):
        read("x", wrong)


@pytest.mark.parametrize("run", experiments(), ids=lambda run: run.name)
def test_every_run_builds_a_model_and_does_one_step(
    run: Experiment, corpus: Corpus, words: list[str]
) -> None:
    """With its own split, batch, loss, clipping and schedule."""
    training = split(run.config, corpus.interactions).training
    torch.manual_seed(run.config.seed)
    model = build(run.config, corpus, run.faults, words)
    over = optimizer(run.config, model)
    plan = schedule(run.config, over)
    found = loss(model, model.collate(batches(run.config, training, epoch=0)[0]))
    found.backward()
    if parameters := clipped(run.config, model):
        torch.nn.utils.clip_grad_norm_(parameters, run.config.clip_norm)
    before = model.unit_head.state_dict() | model.schema.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    over.step()
    plan.step()
    after = model.unit_head.state_dict() | model.schema.state_dict()
    assert found.isfinite()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert any(not torch.equal(before[name], after[name]) for name in before)
