"""The log's base model: an utterance that may attend to the units, seq2seq with attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.attention import Attention
from model.collate import Batch, Collate
from model.config import Config
from model.encoder import Encoder
from model.faults import Faults
from model.parser import Memory, Parser, pooled


class Seq2Seq(Parser):
    """Each turn by itself, but for units, which are merged over turns.

    `reader` runs over the utterance and `writer` over the query, attending to the utterance.
    """

    def __init__(
        self, config: Config, encoder: Encoder, keywords: Tensor, collate: Collate, faults: Faults
    ) -> None:
        super().__init__(config, encoder, keywords, collate, faults)
        self.attend_units: Attention | None = None
        if config.attend_units:
            self.attend_units = Attention(config, faults)
        self.reader = nn.LSTM(config.width, config.width, batch_first=True)
        self.writer = nn.LSTM(config.width, config.width, batch_first=True)
        self.attend_utterance = Attention(config, faults)
        self.fuse = nn.Linear(2 * config.width, config.width)
        self.join: nn.Linear | None = None
        if config.join_input:
            self.join = nn.Linear(2 * config.width, config.width)

    def read(self, batch: Batch) -> Memory:
        """The memory of every turn; no gold query is read."""
        utterance, units = self.seen(batch)
        n, t, u, _ = units.shape
        rows = units.flatten(0, 1)  # (n, t, u, d) -> (r, u, d)
        unit_mask = batch["unit_mask"][:, None].expand(n, t, u).flatten(0, 1)  # -> (r, u)
        said = utterance.flatten(0, 1)  # (n, t, w, d) -> (r, w, d)
        said_mask = batch["utterance_mask"].flatten(0, 1)
        if self.attend_units is not None:
            found = self.attend_units(said, rows, unit_mask)
            said = said + found if self.config.residual else found
        said, _ = self.reader(said)  # padding stands on the right: nothing before it changes
        start = pooled(said, said_mask, self.config)
        return Memory(
            steps=self.step_vectors(rows),
            units=rows,
            unit_mask=unit_mask,
            utterance=said,
            utterance_mask=said_mask,
            start=(start, torch.zeros_like(start)),
        )

    def outputs(self, memory: Memory, given: Tensor) -> Tensor:
        """The decoder's output at every step, which reads no later one: (r, j, d) -> (r, j, d)."""
        hidden = self._run(memory.start, given)
        read = self.attend_utterance(hidden, memory.utterance, memory.utterance_mask)
        fused: Tensor = self.fuse(torch.cat([hidden, read], -1))  # (r, j, 2 * d) -> (r, j, d)
        if self.join is None:
            return fused
        return self.join(torch.cat([fused, given], -1)).tanh()  # type: ignore[no-any-return]

    def _run(self, start: tuple[Tensor, Tensor], given: Tensor) -> Tensor:
        r, j, d = given.shape
        h, c = start
        if self.faults.wrong_state:
            h, c = (part.repeat_interleave(j, 0) for part in start)
            given = given.reshape(r * j, 1, d)  # (r, j, d) -> (r * j, 1, d)
        hidden: Tensor = self.writer(given, (h[None], c[None]))[0]
        return hidden.reshape(r, j, d)
