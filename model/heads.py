"""What a decoder's output is compared with: the keywords and the units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import Config
from model.faults import Faults
from model.linearise import KEYWORDS


class Keywords(nn.Module):
    """A vector for every keyword: free, BERT's, or both joined.

    BERT's are those that it gave the words when the model was built; no gradient reaches BERT.
    """

    encoded: Tensor

    def __init__(self, config: Config, encoded: Tensor) -> None:
        super().__init__()
        self.free: nn.Embedding | None = None
        if config.keyword_init != "bert":
            self.free = nn.Embedding(len(KEYWORDS), config.width)
        self.join: nn.Linear | None = None
        if config.keyword_init != "free":
            self.register_buffer("encoded", encoded.detach())
            free = config.width if self.free is not None else 0
            self.join = nn.Linear(free + encoded.shape[1], config.width)

    def forward(self) -> Tensor:
        """(keyword, d)."""
        parts = [] if self.free is None else [self.free.weight]
        if self.join is None:
            return parts[0]
        return self.join(torch.cat([*parts, self.encoded], 1))  # type: ignore[no-any-return]


class KeywordHead(nn.Module):
    """A score for every keyword: linear over the keyword embeddings."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.transform = nn.Linear(config.width, config.width)
        self.bias = nn.Parameter(torch.zeros(len(KEYWORDS)))

    def forward(self, output: Tensor, keywords: Tensor) -> Tensor:
        """(r, j, d) and (keyword, d) -> (r, j, keyword)."""
        return self.transform(output) @ keywords.T + self.bias  # type: ignore[no-any-return]


class UnitHead(nn.Module):
    """A score for every unit: dot, a linear layer and dot, or bilinear; padding gets the least."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.transform: nn.Linear | None = None
        self.form: nn.Parameter | None = None
        if config.unit_score == "linear":
            self.transform = nn.Linear(config.width, config.width)
        if config.unit_score == "bilinear":
            self.form = nn.Parameter(torch.empty(config.width, config.width))
            nn.init.xavier_uniform_(self.form)

    def forward(self, output: Tensor, units: Tensor, mask: Tensor) -> Tensor:
        """(r, j, d), (r, u, d) and (r, u) -> (r, j, u)."""
        if self.transform is not None:
            output = self.transform(output)
        if self.form is not None:
            output = output @ self.form
        scores = output @ units.transpose(1, 2)  # (r, j, d) x (r, d, u) -> (r, j, u)
        return scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)


def log_probabilities(scores: Tensor, config: Config, faults: Faults) -> Tensor:
    """Over the last axis; `softmax_log` takes the log of a softmax and a little noise."""
    if faults.softmax_then_log:
        return scores.softmax(-1).log()
    if config.softmax == "softmax_log":
        return (scores.softmax(-1) + config.noise).log()
    return scores.log_softmax(-1)
