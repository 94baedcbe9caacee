from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch

from model import metrics
from model.collate import EOS, IGNORED
from model.decode import greedy, queries
from model.faults import Faults
from model.linearise import KEYWORDS
from model.losses import loss
from model.read import Corpus

BOTH = pytest.mark.parametrize("kind", ["hierarchical", "seq2seq"])


@pytest.fixture(scope="module")
def half(small: Any, corpus: Corpus) -> Any:
    """Copies of a model that has learned some of these interactions' queries, and their batch."""

    @cache
    def trained(kind: str, faults: Faults) -> tuple[Any, Any]:
        model = small(faults, model=kind)
        batch = model.collate(corpus.interactions[:6])
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(200):
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
            if metrics.string(model, batch).hits >= 3:
                break
        return model, batch

    def make(kind: str, faults: Faults = Faults()) -> tuple[Any, Any]:  # noqa: B008
        return copy.deepcopy(trained(kind, faults))

    return make


def rows(model: Any, batch: Any) -> list[list[tuple[int, int]]]:
    """For every query the likeliest output and the label of each of its steps."""
    likeliest = model(batch)["scores"].argmax(-1)
    return [
        list(
            zip(likeliest[n, t][there].tolist(), batch["labels"][n, t][there].tolist(), strict=True)
        )
        for n, t in batch["turn_mask"].nonzero().tolist()
        for there in [batch["step_mask"][n, t]]
    ]


def ratio(found: Any) -> tuple[float, int]:
    return pytest.approx(float(found.hits)), int(found.count)


@BOTH
def test_accuracies_are_what_they_say(half: Any, kind: str) -> None:
    model, batch = half(kind)
    found = rows(model, batch)
    steps = [pair for row in found for pair in row]
    shares = [sum(a == b for a, b in row) / len(row) for row in found]
    right = [all(a == b for a, b in row) for row in found]
    assert 0 < sum(right) < len(right)
    assert ratio(metrics.token(model, batch)) == (sum(shares), len(found))
    assert ratio(metrics.string(model, batch)) == (sum(right), len(found))
    for metric, is_db in ((metrics.key, False), (metrics.db, True)):
        own = [pair for pair in steps if (pair[1] >= len(KEYWORDS)) == is_db]
        assert ratio(metric(model, batch)) == (sum(a == b for a, b in own), len(own))
    assert ratio(metrics.unreachable(model, batch)) == (0, len(steps))


@BOTH
def test_right_under_the_gold_prefix_is_right_by_itself(half: Any, kind: str) -> None:
    model, batch = half(kind)
    with torch.no_grad():
        likeliest = model(batch)["scores"].argmax(-1)
    there = batch["step_mask"]
    forced = ((likeliest == batch["labels"]) | ~there).all(-1)[batch["turn_mask"]]
    written = greedy(model, batch)
    longest = max(written.shape[-1], there.shape[-1])
    padded = torch.nn.functional.pad(written, (0, longest - written.shape[-1]), value=EOS)
    gold = batch["labels"].masked_fill(~there, EOS)
    gold = torch.nn.functional.pad(gold, (0, longest - gold.shape[-1]), value=EOS)
    alone = (padded == gold).all(-1)[batch["turn_mask"]]
    assert torch.equal(forced, alone)
    assert 0 < int(alone.sum()) < len(alone)


@BOTH
def test_greedy_reads_no_label_and_no_step_of_its_own_turn(half: Any, kind: str) -> None:
    model, batch = half(kind)
    want = greedy(model, batch)
    blind = batch | {"labels": torch.full_like(batch["labels"], IGNORED)}
    last = batch["turn_mask"].sum(1) - 1
    blind["inputs"] = batch["inputs"].clone()
    for sample, turn in enumerate(last.tolist()):
        blind["inputs"][sample, turn] = EOS
    assert torch.equal(greedy(model, blind), want)


def test_greedy_gives_up(half: Any) -> None:
    model, batch = half("hierarchical")
    model.keyword_head.bias.data[EOS] = -1e9
    assert greedy(model, batch, longest=7).shape[-1] == 7


def test_written_queries_are_strings(half: Any, corpus: Corpus) -> None:
    model, batch = half("hierarchical")
    written = queries(model, batch)
    gold = [[turn.steps for turn in each.turns] for each in corpus.interactions[:6]]
    assert [len(row) for row in written] == [len(row) for row in gold]
    same = sum(
        a == b for x, y in zip(written, gold, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert same == int(metrics.string(model, batch).hits)


def test_gold_that_no_output_can_produce_is_counted_and_wrong(half: Any, corpus: Corpus) -> None:
    model, batch = half("hierarchical", Faults(lost_gold=True))
    turns = [turn for each in corpus.interactions[:6] for turn in each.turns]
    lost = [sum(step.endswith(".*") or step == "*" for step in turn.steps) for turn in turns]
    steps = sum(len(turn.steps) + 1 for turn in turns)
    named = [sum(step.endswith(".*") for step in turn.steps) for turn in turns]
    assert sum(lost) >= sum(named) > 0
    assert ratio(metrics.unreachable(model, batch)) == (sum(named), steps)
    right = metrics.string(model, batch)
    assert int(right.hits) <= sum(count == 0 for count in named)
    whole = [row for row in rows(model, batch) if any(label == IGNORED for _, label in row)]
    assert len(whole) == sum(count > 0 for count in named)


def test_metrics_leave_no_graph(half: Any) -> None:
    model, batch = half("hierarchical")
    for metric in metrics.METRICS.values():
        found = metric(model, batch)
        assert isinstance(found.hits, torch.Tensor)
        assert not found.hits.requires_grad
