"""The hierarchical decoder: a session RNN over turns, the SQL RNN of each turn, attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.attention import Attention
from model.config import Config
from model.faults import Faults
from model.parser import Memory

FARTHEST = 8
"""The distance of earlier turns is told apart up to here; 0 is the pre-turn."""


class Decoder(nn.Module):
    """Turns of a session to the outputs of every SQL step."""

    def __init__(self, config: Config, faults: Faults) -> None:
        super().__init__()
        self.config = config
        self.faults = faults
        width = config.width
        self.session_cell = nn.LSTMCell(2 * width, width)
        self.sql_cell = nn.LSTMCell(width, width)
        self.attend_units: Attention | None = None
        if config.fusion == "three_way":
            self.attend_units = Attention(config, faults)
        self.attend_previous = Attention(config, faults)
        self.attend_utterance: Attention | None = None
        if config.attend_utterance:
            self.attend_utterance = Attention(config, faults)
        ways = 2 + (self.attend_units is not None) + (self.attend_utterance is not None)
        self.fuse = nn.Linear(ways * width, width)
        self.join: nn.Linear | None = None
        if config.join_input:
            self.join = nn.Linear(2 * width, width)
        self.second_cell: nn.LSTM | None = None
        if config.second_cell:
            self.second_cell = nn.LSTM(width, width, batch_first=True)
        self.distance = nn.Embedding(FARTHEST + 1, width)

    def start(self, utterances: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """The SQL RNN's state at the start of every turn: the session's, h and c (n * t, d).

        utterances: (n, t, d). before: (n, t, d), what stood right before each turn.
        """
        state, states = None, []
        for x in torch.cat([utterances, before], -1).unbind(1):  # t x (n, 2 * d)
            state = self.session_cell(x, state)
            states.append(state)
        h, c = (torch.stack(part, 1).flatten(0, 1) for part in zip(*states, strict=True))
        return h, c  # t x (n, d) -> (n, t, d) -> (n * t, d)

    def previous(self, queries: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """The steps of earlier turns' queries with their distance, and which are there.

        (n, t, j, d) and (n, t, j) -> (n, t, t * j, d) and (n, t, t * j).
        """
        n, t, j, d = queries.shape
        turn = torch.arange(t, device=queries.device)
        apart = turn[:, None] - turn  # (t, t), of the turn that reads and the one that is read
        signal = self.distance(apart.clamp(0, FARTHEST))  # (t, t, d)
        read = queries[:, None] + signal[None, :, :, None]  # (n, t, t, j, d)
        mask = there[:, None] & (apart > 0)[None, :, :, None]  # (n, t, t, j)
        return read.view(n, t, t * j, d), mask.view(n, t, t * j)

    def forward(self, memory: Memory, given: Tensor) -> Tensor:
        """The output at every step, which reads no later one: (r, j, d) -> (r, j, d)."""
        hidden = self._run(memory.start, given)
        ways = [hidden]
        if self.attend_units is not None:
            ways.append(self.attend_units(hidden, memory.units, memory.unit_mask))
        assert memory.previous is not None
        assert memory.previous_mask is not None
        ways.append(self.attend_previous(hidden, memory.previous, memory.previous_mask))
        if self.attend_utterance is not None:
            ways.append(self.attend_utterance(hidden, memory.utterance, memory.utterance_mask))
        fused: Tensor = self.fuse(torch.cat(ways, -1))  # (r, j, ways * d) -> (r, j, d)
        if self.second_cell is not None:
            fused = fused + self.second_cell(fused)[0]
        if self.join is None:
            return fused
        return self.join(torch.cat([fused, given], -1)).tanh()  # type: ignore[no-any-return]

    def _run(self, start: tuple[Tensor, Tensor], given: Tensor) -> Tensor:
        state, hidden = start, []
        for x in given.unbind(1):  # j x (r, d)
            state = self.sql_cell(x, start if self.faults.wrong_state else state)
            hidden.append(state[0])
        return torch.stack(hidden, 1)  # j x (r, d) -> (r, j, d)
