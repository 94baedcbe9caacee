"""Queries as they are read by later turns: each step in the context of its query."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import Config


class QueryReader(nn.Module):
    """An LSTM over the steps of a query in either direction, added to the steps themselves."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.onwards = nn.LSTM(config.width, config.width, batch_first=True)
        self.back = nn.LSTM(config.width, config.width, batch_first=True)

    def forward(self, steps: Tensor, there: Tensor) -> Tensor:
        """(r, j, d), whose padding stands on the right, with mask (r, j) -> (r, j, d)."""
        place = torch.arange(steps.shape[1], device=steps.device)
        # of each query alone: its last step comes first, its padding stays where it is
        turned = torch.where(there, there.sum(1, keepdim=True) - 1 - place, place)  # (r, j)
        index = turned[..., None].expand_as(steps)
        back = self.back(steps.gather(1, index))[0].gather(1, index)
        return steps + self.onwards(steps)[0] + back  # type: ignore[no-any-return]
