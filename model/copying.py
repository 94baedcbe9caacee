"""Steps of earlier queries as a second source of the next step, beside keywords and units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import Config


class Copying(nn.Module):
    """A pointer at the steps of earlier queries, and a gate between it and the heads.

    After See et al., "Get To The Point", 2017. Where there is no earlier step the gate is shut.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width, bias=False)
        self.gate = nn.Linear(config.width, 1)

    def forward(
        self, output: Tensor, scores: Tensor, read: Tensor, ids: Tensor, mask: Tensor
    ) -> Tensor:
        """The log-probabilities of steps, written or copied: (r, j, keyword + u).

        output: (r, j, d), scores: (r, j, keyword + u), read: (r, m, d), ids, mask: (r, m).
        """
        # (r, j, d) x (r, d, m) -> (r, j, m)
        found = self.query(output) @ self.key(read).transpose(1, 2) * read.shape[-1] ** -0.5
        hidden = found.masked_fill(~mask[:, None], torch.finfo(found.dtype).min)
        pointer = hidden.softmax(-1) * mask[:, None]
        places = ids[:, None].expand_as(pointer)
        copied = torch.zeros_like(scores).scatter_add(-1, places, pointer)
        share = self.gate(output).sigmoid() * mask.any(-1)[:, None, None]  # (r, j, 1)
        mixed: Tensor = (1 - share) * scores.softmax(-1) + share * copied
        return mixed.clamp(min=torch.finfo(mixed.dtype).tiny).log()
