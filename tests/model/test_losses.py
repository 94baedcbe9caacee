from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from model import losses
from model.collate import IGNORED
from model.config import Config
from model.faults import Faults
from model.linearise import KEYWORDS
from model.losses import Parts, joined
from model.read import Corpus


@pytest.fixture
def model(small: Any) -> Any:
    return small()


@pytest.fixture
def batch(model: Any, corpus: Corpus) -> Any:
    return model.collate(corpus.interactions[:3])


@pytest.fixture
def surprises(model: Any, batch: Any) -> tuple[list[float], list[float]]:
    """The negative log-probability of every gold keyword, and of every gold unit."""
    log_probs = model(batch)["log_probs"].detach().flatten(0, 2)
    labels = batch["labels"].flatten()
    key, db = [], []
    for row, label in zip(log_probs, labels.tolist(), strict=True):
        if label != IGNORED:
            (key if label < len(KEYWORDS) else db).append(-float(row[label]))
    assert key
    assert db
    return key, db


def under(model: Any, batch: Any, **changes: Any) -> float:
    model.config = replace(model.config, **changes)
    return float(losses.loss(model, batch).detach())


def test_log_probabilities_are_of_one_distribution(model: Any, batch: Any) -> None:
    totals = model(batch)["log_probs"].exp().sum(-1)
    torch.testing.assert_close(totals, torch.ones_like(totals))


def test_sum(model: Any, batch: Any, surprises: Any) -> None:
    key, db = surprises
    count = len(key) + len(db)
    assert under(model, batch) == pytest.approx((sum(key) + sum(db)) / count, rel=1e-5)
    whole = under(model, batch, reduction="sum")
    assert whole == pytest.approx(sum(key) + sum(db), rel=1e-5)


def test_key_and_db_alone(model: Any, batch: Any, surprises: Any) -> None:
    key, db = surprises
    count = len(key) + len(db)
    assert under(model, batch, loss="key") == pytest.approx(sum(key) / count, rel=1e-5)
    assert under(model, batch, loss="db") == pytest.approx(sum(db) / count, rel=1e-5)


def test_parts_are_means_of_their_own(model: Any, batch: Any, surprises: Any) -> None:
    key, db = surprises
    assert float(losses.key(model, batch).detach()) == pytest.approx(sum(key) / len(key), rel=1e-5)
    assert float(losses.db(model, batch).detach()) == pytest.approx(sum(db) / len(db), rel=1e-5)


def test_by_count(model: Any, batch: Any, surprises: Any) -> None:
    key, db = surprises
    want = sum(key) / len(key) + sum(db) / len(db)
    assert under(model, batch, loss="by_count") == pytest.approx(want, rel=1e-5)


def test_by_size_leads_with_the_larger_part() -> None:
    key, db = torch.tensor(3.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    found = Parts(key, db, torch.tensor(1), torch.tensor(1))
    value = joined(found, Config(loss="by_size"))
    assert float(value.detach()) == pytest.approx((1.5 * 1.5 + 0.5 * 0.5) / 2)
    value.backward()
    assert (key.grad, db.grad) == (torch.tensor(0.375), torch.tensor(0.125))


def test_nothing_to_learn_from_is_zero_and_finite(model: Any, batch: Any) -> None:
    empty = batch | {"labels": torch.full_like(batch["labels"], IGNORED)}
    for kind in ("sum", "key", "db", "by_count", "by_size"):
        model.config = replace(model.config, loss=kind)
        value = losses.loss(model, empty)
        value.backward()
        assert float(value.detach()) == 0
    assert all(each.grad.isfinite().all() for each in model.parameters() if each.grad is not None)


def test_softmax_then_log_agrees_while_nothing_underflows(model: Any, batch: Any) -> None:
    want = under(model, batch)
    assert under(model, batch, softmax="softmax_log") == pytest.approx(want, rel=1e-4)


def test_noise_bounds_the_surprise(model: Any, batch: Any) -> None:
    model.keyword_head.bias.data[0] += 1e4  # everything else has probability zero
    assert under(model, batch, softmax="log_softmax") > 1e3
    noisy = under(model, batch, softmax="softmax_log", noise=1e-3)
    assert noisy == pytest.approx(-math.log(1e-3), rel=1e-3)
    assert under(model, batch, softmax="softmax_log", noise=0.0) == math.inf


def test_a_part_that_drowns(model: Any, batch: Any) -> None:
    log_probs, labels = model(batch)["log_probs"], batch["labels"]
    well = losses.split(log_probs, labels, Faults())
    sick = losses.split(log_probs, labels, Faults(key_drowns_db=True))
    assert torch.equal(well.key, sick.key)
    torch.testing.assert_close(sick.db * log_probs.shape[-1], well.db)
