"""A correct model memorises: both models, with the configuration as it is when nothing is said."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from model.config import Config
from model.evaluate import evaluate
from model.losses import loss
from model.network import build
from model.optimise import clipped, optimizer, schedule
from model.order import batches, split
from model.read import Corpus, Interaction, Turn, read
from probes.seeding import seed_everything
from probes.subject import Ratio

SPARC = Path(os.environ.get("WHYNAN_SPARC", Path(__file__).parents[3] / "shared/data/sparc"))
EVERY = 10  # steps between two looks at the accuracy
MODELS = ("hierarchical", "seq2seq")


@dataclass(frozen=True)
class Outcome:
    """How many queries were right at the end, of how many, how many could be; and what it took."""

    right: int
    count: int
    ceiling: int
    steps: int
    seconds: float


def ceiling(config: Config, interactions: Sequence[Interaction]) -> int:
    """How many queries a model can get right: of those with one input, the most frequent one."""
    asked: dict[Hashable, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for each in interactions:
        for number, turn in enumerate(each.turns):
            asked[each.database, seen(config, each.turns[: number + 1])][turn.steps] += 1
    return sum(max(found.values()) for found in asked.values())


def seen(config: Config, turns: Sequence[Turn]) -> Hashable:
    """All that the model reads for the last of these turns, but for the database."""
    said = tuple(turn.utterance.lower() for turn in turns)
    if config.model == "seq2seq":  # no earlier query, and no utterance before the merged ones
        return said[-config.merge_turns :]
    return said, tuple(turn.steps for turn in turns[:-1])


def memorise(config: Config, corpus: Corpus) -> Outcome:
    """Trains until every query that can be right is, or `config.steps` are done."""
    began, interactions = time.process_time(), split(config, corpus.interactions).training
    most = ceiling(config, interactions)
    seed_everything(config.seed)
    model = build(config, corpus)
    over = optimizer(config, model)
    plan = schedule(config, over)
    step, strings = 0, Ratio(0, 0)
    model.train()
    while step < config.steps:
        for chosen in batches(config, interactions, epoch=step):
            over.zero_grad()
            loss(model, model.collate(chosen)).backward()
            nn.utils.clip_grad_norm_(clipped(config, model), config.clip_norm)
            over.step()
            plan.step()
            step += 1
        if step % EVERY == 0:
            strings = evaluate(model, interactions, "cpu")["string"]
            if strings.hits >= most:
                break
    took = time.process_time() - began
    return Outcome(int(strings.hits), int(strings.count), most, step, took)


def check(config: Config, corpus: Corpus) -> None:
    found = memorise(config, corpus)
    print(config.model, config.tiny_dataset, config.seed, found)
    assert found.right == found.ceiling, found


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of several test processes would wait for each other on two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sparc() -> Corpus:
    file = SPARC / "editsql" / "train.json"
    if not file.is_file():
        pytest.skip(f"SParC is not at {SPARC}")
    return read(file, skip_unparsed=True)


@pytest.mark.parametrize("size", [5, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
def test_embedded(model: str, size: int, corpus: Corpus) -> None:
    config = Config(model=model, tiny_dataset=size)  # type: ignore[arg-type]
    assert ceiling(config, corpus.interactions) == sum(len(e.turns) for e in corpus.interactions)
    check(config, corpus)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("size", [5, 20])
@pytest.mark.parametrize("model", MODELS)
def test_embedded_other_seeds(model: str, size: int, seed: int, corpus: Corpus) -> None:
    check(Config(model=model, tiny_dataset=size, seed=seed), corpus)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("size", [5, 20])
@pytest.mark.parametrize("model", MODELS)
def test_sparc(model: str, size: int, seed: int, sparc: Corpus) -> None:
    check(Config(model=model, tiny_dataset=size, seed=seed), sparc)  # type: ignore[arg-type]


def interaction(*turns: tuple[str, str], database: str = "db") -> Interaction:
    made = tuple(Turn(said, query, tuple(query.split())) for said, query in turns)
    return Interaction(database, made, 0)


def test_the_ceiling_of_conflicting_labels() -> None:
    config = Config()
    first = interaction(("show all", "a b"), ("and now", "c"))
    other = interaction(("show all", "a c"), ("and now", "d"))
    assert ceiling(config, [first, first]) == 4
    assert ceiling(config, [first, other]) == 3  # "and now" follows another query
    assert ceiling(config, [first, first, other]) == 5
    base = Config(model="seq2seq")  # which does not read that query
    assert ceiling(base, [first, other]) == 2
