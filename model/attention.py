"""Attention with one head, soft or hard."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import Config
from model.faults import Faults


class Attention(nn.Module):
    """Scaled dot-product attention whose values are what it attends to, unchanged.

    Hard attention zeroes the values at masked positions, so that a row that is masked throughout
    gives zeros. Without, such a row gives the average of what is masked.
    """

    def __init__(self, config: Config, faults: Faults) -> None:
        super().__init__()
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width, bias=False)  # softmax cancels a bias
        self.masked = config.attention_mask
        self.hard = config.hard_attention
        self.faults = faults

    def forward(self, reading: Tensor, read: Tensor, mask: Tensor) -> Tensor:
        """What each row reads: (r, j, d), (r, m, d), mask (r, m) -> (r, j, d)."""
        if not self.masked:
            mask = torch.ones_like(mask)
        # (r, j, d) x (r, d, m) -> (r, j, m)
        scores = self.query(reading) @ self.key(read).transpose(1, 2) * read.shape[-1] ** -0.5
        hidden = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        weights = (scores if self.faults.mask_without_effect else hidden).softmax(-1)
        if self.hard and not self.faults.padded_rows_averaged:
            read = read * mask[..., None]
        return torch.bmm(weights, read)  # (r, j, m) x (r, m, d) -> (r, j, d)
