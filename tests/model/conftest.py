"""Specimens small enough to be built for every test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from model.config import Config
from model.faults import Faults
from model.network import build
from model.parser import Parser
from model.read import Corpus, embedded

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
