"""What both models share: from a batch to the probability of every step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from model.collate import Batch, Collate
from model.config import Config
from model.copying import Copying
from model.encoder import Encoder
from model.faults import Faults
from model.heads import KeywordHead, Keywords, UnitHead, log_probabilities
from model.linearise import KEYWORDS
from model.schema import Schema
from probes.errors import RequestError


@dataclass(frozen=True, slots=True)
class Memory:
    """All that a query is decoded from, but for its own steps; r is n * t, a row for each turn.

    steps: (r, keyword + u, d), a vector for everything that a step can be. units: (r, u, d) and
    unit_mask: (r, u), the same of units alone. utterance: (r, w, d) and utterance_mask: (r, w).
    start: the SQL RNN's state before the first step, h and c (r, d). previous: (r, m, d) and
    previous_mask: (r, m), what stands before the turn; None in a model that does not look back.
    previous_steps: (r, m), which output each of them is.
    """

    steps: Tensor
    units: Tensor
    unit_mask: Tensor
    utterance: Tensor
    utterance_mask: Tensor
    start: tuple[Tensor, Tensor]
    previous: Tensor | None = None
    previous_mask: Tensor | None = None
    previous_steps: Tensor | None = None

    def at(self, rows: Tensor) -> Memory:
        """The memory of these turns alone."""
        parts: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        h, c = parts.pop("start")
        parts = {name: part if part is None else part[rows] for name, part in parts.items()}
        return Memory(start=(h[rows], c[rows]), **parts)


class Parser(nn.Module, ABC):
    """A text-to-SQL model; `Hierarchical` and `Seq2Seq` say how they read and decode.

    collate: makes its batches.
    """

    def __init__(
        self, config: Config, encoder: Encoder, keywords: Tensor, collate: Collate, faults: Faults
    ) -> None:
        super().__init__()
        self.config = config
        self.faults = faults
        self.collate = collate
        self.encoder = encoder
        self.schema = Schema(config, encoder.width, faults)
        self.keywords = Keywords(config, keywords)
        self.dropout = nn.Dropout(config.dropout)
        self.keyword_head = KeywordHead(config)
        self.unit_head = UnitHead(config)
        self.copying: Copying | None = None
        if config.copying and config.model == "hierarchical":
            self.copying = Copying(config)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`scores` and `log_probs`, (n, t, j, keyword + u), of each step after the gold ones."""
        return self.decode(self.read(batch), batch["inputs"])

    @abstractmethod
    def read(self, batch: Batch) -> Memory:
        """The memory of every turn, given the gold queries of the turns before it."""

    @abstractmethod
    def outputs(self, memory: Memory, given: Tensor) -> Tensor:
        """The decoder's output at every step: (r, j, d) -> (r, j, d)."""

    def decode(self, memory: Memory, inputs: Tensor) -> dict[str, Tensor]:
        """As `forward`, after these steps: (n, t, j)."""
        n, t, j = inputs.shape
        given = self.dropout(embedded(memory.steps, inputs.flatten(0, 1)))  # (r, j, d)
        output = self.dropout(self.outputs(memory, given))
        keyword_scores = self.keyword_head(output, self.keywords())
        unit_scores = self.unit_head(output, memory.units, memory.unit_mask)
        # (r, j, keyword) and (r, j, u) -> (n, t, j, keyword + u)
        scores = torch.cat([keyword_scores, unit_scores], -1).view(n, t, j, -1)
        if self.copying is not None:
            scores = self._copied(output, scores, memory)
            return {"scores": scores, "log_probs": scores}
        log_probs = log_probabilities(scores, self.config, self.faults)
        return {"scores": scores, "log_probs": log_probs}

    def _copied(self, output: Tensor, scores: Tensor, memory: Memory) -> Tensor:
        assert self.copying is not None
        before = (memory.previous, memory.previous_steps, memory.previous_mask)
        mixed: Tensor = self.copying(output, scores.flatten(0, 1), *before)
        return mixed.view_as(scores)

    def hidden(self, batch: Batch, prefix: str = "") -> Tensor:
        """The word pieces, or with `pre_` the pre-turn's, for the schema: (n, t, s * l, inner)."""
        if prefix + "features" in batch:
            hidden = batch[prefix + "features"]
        else:
            given = (batch[prefix + key] for key in ("ids", "token_mask", "token_types"))
            hidden = self.encoder(*given)
        reduced: Tensor = self.schema.transform(hidden)
        return reduced if self.schema.read_dropout is None else self.schema.read_dropout(reduced)

    def seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each turn's utterance (n, t, w, d), and the units as they are at it (n, t, u, d)."""
        hidden = self.hidden(batch)
        if self.config.joint:
            return self.schema.together(hidden, batch)
        places, there = batch["unit_pieces"], batch["unit_piece_mask"]
        kinds, mask, namings = batch["unit_kinds"], batch["unit_mask"], batch.get("unit_namings")
        units = self.schema(hidden, places, there, kinds, mask, namings)
        return self.schema.utterance(hidden, batch["utterance_pieces"]), units

    def step_vectors(self, units: Tensor) -> Tensor:
        """A vector for everything that a step can be: (r, u, d) -> (r, keyword + u, d)."""
        keywords = self.keywords().expand(len(units), len(KEYWORDS), -1)
        return torch.cat([keywords, units], 1)


def embedded(steps: Tensor, inputs: Tensor) -> Tensor:
    """The vectors of these steps: (r, keyword + u, d) at (r, j) -> (r, j, d)."""
    return steps.gather(1, inputs[..., None].expand(-1, -1, steps.shape[-1]))


def pooled(vectors: Tensor, mask: Tensor, config: Config) -> Tensor:
    """The initial state's share of an utterance: (r, w, d) and (r, w) -> (r, d)."""
    if not config.state_mask:
        mask = torch.ones_like(mask)
    summed = (vectors * mask[..., None]).sum(1)
    if config.state_pooling == "sum":
        return summed
    return summed / mask.sum(1, keepdim=True).clamp(min=1)


def parser_of(model: nn.Module) -> Parser:
    """The parser itself, out of a wrapper such as DDP's or torch.compile's."""
    for module in model.modules():
        if isinstance(module, Parser):
            return module
    raise RequestError(
        f"`model` is a {type(model).__name__} without a Parser in it: expected what"
        " `model.network.build` returns; pass that"
    )
