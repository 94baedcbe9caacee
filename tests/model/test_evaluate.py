from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.config import Config
from model.evaluate import evaluate, exact, said, share, written, written_alone
from model.losses import loss
from model.metrics import METRICS
from model.network import build
from model.parser import Parser
from model.read import Corpus, Interaction
from probes.subject import Ratio

SMALL = {"bert_width": 16, "bert_layers": 1, "bert_heads": 2, "width": 32, "dropout": 0.0}


@pytest.fixture(scope="module")
def few(corpus: Corpus) -> list[Interaction]:
    """More interactions than one batch of the evaluation holds, cut short to be quick."""
    return [replace(each, turns=each.turns[:2]) for each in corpus.interactions[:24]]


@pytest.fixture(scope="module")
def learned(corpus: Corpus, words: list[str], few: list[Interaction]) -> Parser:
    """A model that is neither right nor wrong throughout."""
    torch.manual_seed(0)
    model = build(Config(**SMALL), corpus, vocabulary=words)
    batch = model.collate(few)
    over = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        over.zero_grad()
        loss(model, batch).backward()
        over.step()
    return model


def test_many_batches_count_as_one(learned: Parser, few: list[Interaction]) -> None:
    scores = evaluate(learned, few, "cpu")
    learned.eval()
    whole = learned.collate(few)
    for name, metric in METRICS.items():
        hits, count = metric(learned, whole)
        assert float(scores[name].hits) == pytest.approx(float(hits), rel=1e-5)
        assert scores[name].count == float(count)
    assert scores["unreachable"] == Ratio(0, sum(len(t.steps) + 1 for e in few for t in e.turns))


def test_buckets_change_no_order(
    learned: Parser, few: list[Interaction], monkeypatch: pytest.MonkeyPatch
) -> None:
    want, scores = written(learned, few, "cpu"), evaluate(learned, few, "cpu")
    monkeypatch.setattr(learned, "config", replace(learned.config, bucketing=True))
    assert written(learned, few, "cpu") == want
    found = evaluate(learned, few, "cpu")
    assert {name: ratio.hits for name, ratio in found.items()} == pytest.approx(
        {name: ratio.hits for name, ratio in scores.items()}
    )


def test_the_mode_and_the_random_state_stay(learned: Parser, few: list[Interaction]) -> None:
    before = torch.get_rng_state()
    learned.train()
    evaluate(learned, few[:2], "cpu")
    assert learned.training
    assert torch.equal(before, torch.get_rng_state())


def test_exact_match_is_the_same_greedily(learned: Parser, few: list[Interaction]) -> None:
    under_gold = evaluate(learned, few, "cpu")["string"]
    greedy = exact(few, written(learned, few, "cpu"))
    assert greedy == under_gold
    assert 0 < greedy.hits < greedy.count


def test_alone_it_goes_on_from_what_it_wrote(learned: Parser, few: list[Interaction]) -> None:
    gold, alone = written(learned, few, "cpu"), written_alone(learned, few, "cpu")
    assert [turns[0] for turns in alone] == [turns[0] for turns in gold]
    right = [i for i, each in enumerate(few) if gold[i][0] == each.turns[0].steps]
    assert right
    assert all(alone[i][1] == gold[i][1] for i in right)  # then both stand on the gold query
    wrong = [i for i in range(len(few)) if i not in right]
    own = [
        replace(few[i], turns=(replace(few[i].turns[0], steps=gold[i][0]), *few[i].turns[1:]))
        for i in wrong
    ]
    again = written(learned, own, "cpu")
    assert [turns[1] for turns in again] == [alone[i][1] for i in wrong]


def test_words_of_an_accuracy() -> None:
    assert said(Ratio(17, 20)) == "0.850 (17 of 20)"
    assert said(Ratio(10.4, 17)) == "0.612 (10.4 of 17)"
    assert said(Ratio(0, 0)) == "nan (0 of 0)"
    assert share(Ratio(1, 4)) == 0.25
