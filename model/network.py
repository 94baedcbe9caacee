"""The hierarchical model, and how either model is built."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.cached import Cached
from model.collate import EOS, Batch, Collate
from model.config import Config
from model.decoder import Decoder
from model.encoder import Encoder, load
from model.faults import Faults
from model.linearise import KEYWORDS
from model.parser import Memory, Parser, embedded, pooled
from model.queries import QueryReader
from model.read import Corpus
from model.seq2seq import Seq2Seq
from probes.errors import RequestError


def build(
    config: Config,
    corpus: Corpus,
    faults: Faults = Faults(),  # noqa: B008  (frozen)
    vocabulary: Sequence[str] | None = None,
) -> Parser:
    """The model of a configuration, over the corpus' databases; weights drawn from torch's seed.

    `vocabulary` are the small encoder's word pieces, such as `model.collate.vocabulary.words()`
    of an earlier model; learned from the corpus where it is not given.
    """
    _check_cached(config, faults)
    encoder, pieces = load(config, corpus, faults, vocabulary)
    cached = Cached(encoder, pieces.pad) if config.cached else None
    collate = Collate(config, pieces, corpus, faults, cached)
    keywords = encoder.words(KEYWORDS, pieces)
    kind = Hierarchical if config.model == "hierarchical" else Seq2Seq
    return kind(config, encoder, keywords, collate, faults)


def _check_cached(config: Config, faults: Faults) -> None:
    planted = {*faults.planted} & {"pad_position_leak", "misaligned", "sum_over_padding"}
    if config.cached and planted:
        raise RequestError(
            f"`cached` is true and {', '.join(f'`{each}`' for each in sorted(planted))} planted: a"
            " cache holds what the encoder gives without it; leave one of them out"
        )


class Hierarchical(Parser):
    """The log's model: a session RNN over the turns starts the SQL RNN of each."""

    def __init__(
        self, config: Config, encoder: Encoder, keywords: Tensor, collate: Collate, faults: Faults
    ) -> None:
        super().__init__(config, encoder, keywords, collate, faults)
        self.decoder = Decoder(config, faults)
        self.query_reader = QueryReader(config) if config.query_reader else None
        self.used = nn.Embedding(2, config.width) if config.used else None

    def read(self, batch: Batch) -> Memory:
        """The memory of every turn, given the gold queries of the turns before it."""
        utterance, units = self.seen(batch)
        n, t, u, _ = units.shape
        if self.used is not None:
            units = units + self.used(used(batch["inputs"], batch["step_mask"], u))
        rows = units.flatten(0, 1)  # (n, t, u, d) -> (r, u, d)
        steps = self.step_vectors(rows)
        unit_mask = batch["unit_mask"][:, None].expand(n, t, u)
        queries = embedded(steps, batch["inputs"].flatten(0, 1)).unflatten(0, (n, t))
        if self.query_reader is not None:
            there = batch["step_mask"].flatten(0, 1)
            queries = self.query_reader(queries.flatten(0, 1), there).unflatten(0, (n, t))
        previous, previous_mask = self.decoder.previous(queries, batch["step_mask"])
        previous_steps = batch["inputs"].flatten(1)[:, None].expand(n, t, -1)  # (n, t, t * j)
        before = _mean(queries, batch["step_mask"])[:, :-1]  # (n, t - 1, d)
        first = before.new_zeros(n, 1, before.shape[-1])
        if self.config.pre_turn:
            pre = self._pre_turn(batch)  # (n, u, d)
            shown = self._pre_turn_shown(unit_mask)  # (n, t, u)
            first = _mean(pre, shown[:, 0])[:, None]  # (n, 1, d)
            previous = torch.cat([pre[:, None].expand(n, t, -1, -1), previous], 2)
            previous_mask = torch.cat([shown, previous_mask], 2)
            ids = torch.arange(u, device=units.device).expand(n, t, u) + len(KEYWORDS)
            previous_steps = torch.cat([ids, previous_steps], 2)
        said = utterance.flatten(0, 1)  # (n, t, w, d) -> (r, w, d)
        said_mask = batch["utterance_mask"].flatten(0, 1)
        start = pooled(said, said_mask, self.config).unflatten(0, (n, t))
        return Memory(
            steps=steps,
            units=rows,
            unit_mask=unit_mask.flatten(0, 1),
            utterance=said,
            utterance_mask=said_mask,
            start=self.decoder.start(start, torch.cat([first, before], 1)),
            previous=previous.flatten(0, 1),  # (n, t, m, d) -> (r, m, d)
            previous_mask=previous_mask.flatten(0, 1),
            previous_steps=previous_steps.flatten(0, 1),
        )

    def outputs(self, memory: Memory, given: Tensor) -> Tensor:
        """The decoder's output at every step: (r, j, d) -> (r, j, d)."""
        return self.decoder(memory, given)  # type: ignore[no-any-return]

    def _pre_turn(self, batch: Batch) -> Tensor:
        """The units without any utterance: (n, u, d)."""
        hidden = self.hidden(batch, "pre_")
        places, there = batch["pre_unit_pieces"], batch["pre_unit_piece_mask"]
        units = self.schema(hidden, places, there, batch["unit_kinds"], batch["unit_mask"])
        return units[:, 0] + self.decoder.distance.weight[0]  # type: ignore[no-any-return]

    def _pre_turn_shown(self, unit_mask: Tensor) -> Tensor:
        """Which units of the pre-turn each turn sees: (n, t, u)."""
        if not self.faults.first_turn_without_pre_turn:
            return unit_mask
        later = torch.arange(unit_mask.shape[1], device=unit_mask.device) > 0  # (t,)
        return unit_mask & later[:, None]


def used(inputs: Tensor, there: Tensor, units: int) -> Tensor:
    """Whether the query before each turn has each unit, 0 or 1: (n, t, j) -> (n, t, u)."""
    n, t, _ = inputs.shape
    steps = inputs.masked_fill(~there, EOS)
    found = inputs.new_zeros(n, t, len(KEYWORDS) + units).scatter(2, steps, 1)
    first = inputs.new_zeros(n, 1, units)
    return torch.cat([first, found[:, :-1, len(KEYWORDS) :]], 1)


def _mean(vectors: Tensor, mask: Tensor) -> Tensor:
    """Over the last axis of the mask: (..., m, d) and (..., m) -> (..., d); of nothing, zeros."""
    summed = (vectors * mask[..., None]).sum(-2)
    return summed / mask.sum(-1, keepdim=True).clamp(min=1)
