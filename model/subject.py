"""The specimen as a `Subject`: `whynan diagnose model.subject:hierarchical`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model.collate import IGNORED, UNK, Batch, Collate
from model.config import Config
from model.faults import Faults
from model.layout import layout
from model.linearise import KEYWORDS
from model.losses import db, key, loss
from model.metrics import METRICS
from model.network import build
from model.optimise import clipped, optimizer, schedule
from model.order import cut
from model.parser import Parser
from model.read import Corpus, Interaction, embedded
from probes import Subject
from probes.batch import take

if TYPE_CHECKING:
    from overfit.notebook import Notebook

AT_ONCE = 20
"""Interactions in a batch."""


def hierarchical() -> Subject:
    """The log's model as it should have been, on the embedded corpus."""
    return subject(Config(), embedded())


def seq2seq() -> Subject:
    """The log's base model, on the embedded corpus."""
    return subject(Config(model="seq2seq"), embedded())


def subject(config: Config, corpus: Corpus, faults: Faults = Faults()) -> Subject:  # noqa: B008
    """The model of a configuration, trained on all interactions of a corpus.

    All batches have one shape but for their last, so that any samples can be joined.
    """
    model = build(config, corpus, faults)
    made = around(model, batches(model.collate, cut(config, corpus.interactions)))
    return replace(made, interventions=dict(_switches(config, corpus, faults)))


def around(model: Parser, batches: Iterable[Batch]) -> Subject:
    """The model, trained on these batches as its configuration says."""
    config = model.config
    whole = clipped(config, model)

    def step(model: nn.Module, batch: Batch, over: Optimizer) -> Tensor:
        over.zero_grad()
        value = loss(model, batch)
        value.backward()
        nn.utils.clip_grad_norm_(clipped(config, model), config.clip_norm)
        over.step()
        return value

    return Subject(
        model,
        batches,
        loss,
        lambda model: optimizer(config, model),
        predict=lambda model, batch: model(batch),
        train_step=step if config.clip == "all_but_bert" else None,
        schedule=(lambda over: schedule(config, over)) if _moves(config) else None,
        clip_norm=config.clip_norm if whole and config.clip == "all" else None,
        parts={"key": key, "db": db},
        metrics=METRICS,
        describe=describe,
        layout=layout(model.collate),
        group="database",
    )


SWITCHES = (
    *("clip", "loss", "reduction", "softmax", "bert_frozen", "pooling", "pre_transform"),
    *("transformer_layers", "merge", "pre_turn", "state_pooling", "state_mask", "fusion"),
    *("attend_utterance", "attention_mask", "hard_attention", "join_input", "unit_score"),
    *("keyword_init", "attend_units", "residual"),
)
"""What `--why` turns back to what it is in the model that memorises, one at a time."""


def _switches(
    config: Config, corpus: Corpus, faults: Faults
) -> Iterator[tuple[str, Callable[[Subject], Subject]]]:
    """A variant for every switch that is not as it should be, and for every planted fault."""
    sound = Config()
    for name in SWITCHES:
        if getattr(config, name) != getattr(sound, name):
            kept = config.cached and name not in ("bert_frozen", "pooling")  # no cache has those
            other = replace(config, cached=kept, **{name: getattr(sound, name)})
            yield f"{name}={getattr(sound, name)}", partial(_variant, other, corpus, faults)
    for name in faults.planted:
        healed = replace(faults, **{name: getattr(Faults(), name)})
        yield f"without {name}", partial(_variant, config, corpus, healed)


def _variant(config: Config, corpus: Corpus, faults: Faults, _: Subject) -> Subject:
    return subject(config, corpus, faults)


def _moves(config: Config) -> bool:
    return config.warmup > 0 or config.schedule != "constant"


def log() -> Notebook:
    """The log as a notebook: `whynan notebook model.subject:log`."""
    from model.log import log

    return log()


def faults() -> Notebook:
    """Each planted bug by itself: `whynan notebook model.subject:faults`."""
    from model.log import faults

    return faults()


def describe(batch: Batch, index: int) -> str:
    """The database and the first utterance of a sample."""
    return f"{batch['database'][index]}: {batch['utterance'][index]}"


def batches(
    collate: Collate, interactions: Sequence[Interaction], at_once: int = AT_ONCE
) -> list[Batch]:
    """The interactions, so many a batch, padded as if they were one, with ids for their names."""
    whole = named(collate(interactions))
    starts = range(0, len(interactions), at_once)
    return [take(whole, range(start, min(start + at_once, len(interactions)))) for start in starts]


def named(batch: Batch) -> Batch:
    """The batch with two keys that no model reads: they only say how rows and columns are called.

    word_ids (n, t, w): the utterance's word pieces, where the batch has them. step_ids
    (n, t, j): the gold steps, a unit as len(KEYWORDS) + its place in `Collate.unit_names`.
    """
    steps: Tensor = batch["labels"].masked_fill(batch["labels"] == IGNORED, UNK)
    unit = (steps - len(KEYWORDS)).clamp(min=0).flatten(1)  # (n, t, j) -> (n, t * j)
    places = batch["unit_ids"].gather(1, unit).view_as(steps) + len(KEYWORDS)
    names = {"step_ids": torch.where(steps < len(KEYWORDS), steps, places)}
    if "ids" in batch:
        pieces = batch["ids"].flatten(2)  # (n, t, s, l) -> (n, t, s * l)
        names["word_ids"] = pieces.gather(2, batch["utterance_pieces"])
    return batch | names
