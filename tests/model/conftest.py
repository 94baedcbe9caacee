"""Specimens small enough to be built for every test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from model.collate import Batch
from model.config import Config
from model.faults import Faults
from model.network import build
from model.parser import Parser
from model.read import Corpus, Interaction, embedded

SMALL: dict[str, Any] = {
    "bert_width": 16,
    "bert_layers": 1,
    "bert_heads": 2,
    "width": 16,
    "vocabulary": 300,
    "dropout": 0.0,
    "bert_dropout": 0.0,
}
Small = Callable[..., Parser]


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """The embedded corpus."""
    return embedded()


@pytest.fixture(scope="session")
def words(corpus: Corpus) -> list[str]:
    """The word pieces of a small specimen, learned once."""
    model = build(Config(**SMALL), corpus)
    return model.collate.vocabulary.words()


@pytest.fixture(scope="session")
def small(corpus: Corpus, words: list[str]) -> Small:
    """Makes a small specimen, in eval mode, with these fields changed and these faults planted.

    Weights that have the same name and shape are the same in all: what differs is the computation.
    """

    def make(faults: Faults = Faults(), **changes: Any) -> Parser:  # noqa: B008
        config = Config(**(SMALL | changes))
        learn = config.encoder != "small" or "vocabulary" in changes
        torch.manual_seed(0)
        model = build(config, corpus, faults, None if learn else words)
        for name, parameter in sorted(model.named_parameters()):
            chance = torch.Generator().manual_seed(sum(map(ord, name)))
            shape = torch.randn(parameter.shape, generator=chance)
            parameter.data.copy_(shape * parameter.shape[-1] ** -0.5 + ("norm" in name.lower()))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def sessions(corpus: Corpus) -> list[Interaction]:
    """Two interactions of three turns or more, over databases of different sizes."""
    long = [each for each in corpus.interactions if len(each.turns) > 2]
    size = {name: len(database.units) for name, database in corpus.databases.items()}
    ordered = sorted(long, key=lambda each: (size[each.database], each.index))
    return [ordered[0], ordered[-1]]


def scores_of(model: Parser, batch: Batch) -> Tensor:
    """At the steps that are there, of outputs that are: (step, output), flat."""
    with torch.no_grad():
        found = model(batch)["scores"][batch["step_mask"]]
    return found[found > torch.finfo(found.dtype).min]


@pytest.fixture
def scores() -> Callable[[Parser, Batch], Tensor]:
    """The scores of a model on a batch."""
    return scores_of


@pytest.fixture
def apart(sessions: list[Interaction]) -> Callable[[Parser, Parser], float]:
    """How far the scores of two models on the sessions are from each other at most."""

    def distance(first: Parser, second: Parser) -> float:
        one, other = (scores_of(model, model.collate(sessions)) for model in (first, second))
        return float((one - other).abs().max())

    return distance
