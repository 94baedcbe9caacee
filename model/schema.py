"""The units of a database as vectors: pooled, signalled, transformed and merged over turns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.collate import COLUMN, Batch
from model.config import Config
from model.faults import Faults
from model.naming import NAMINGS


class Schema(nn.Module):
    """What each unit is under each turn's utterance and those before it.

    `transform` reduces the width of BERT's output, which everything here takes, to `inner`, the
    width of signals and layers; or leaves it, and `join` reduces it.
    """

    def __init__(self, config: Config, bert_width: int, faults: Faults) -> None:
        super().__init__()
        self.config = config
        self.faults = faults
        inner = config.width if config.pre_transform else bert_width
        self.transform = nn.Linear(bert_width, inner) if config.pre_transform else nn.Identity()
        self.pool = Pool(config, faults)
        self.read_dropout = nn.Dropout(config.read_dropout) if config.read_dropout else None
        self.kind = nn.Embedding(COLUMN + 1, inner)  # token type; 0 is the utterance
        self.distance = nn.Embedding(config.merge_turns, inner)  # turn distance
        self.layers = nn.ModuleList(
            Layer(inner, config.transformer_heads, config.dropout)
            for _ in range(config.transformer_layers)
        )
        self.naming = nn.Embedding(NAMINGS, inner) if config.naming else None
        slots = config.merge_turns if config.merge == "concat" else 1
        self.join = nn.Linear(slots * inner, config.width)
        self.say = nn.Linear(inner, config.width)

    def utterance(self, hidden: Tensor, places: Tensor) -> Tensor:
        """The utterance's word pieces: (n, t, s * l, inner) at (n, t, w) -> (n, t, w, d)."""
        return self.say(self.pieces(hidden, places))  # type: ignore[no-any-return]

    def pieces(self, hidden: Tensor, places: Tensor) -> Tensor:
        """The same with their signal, before the width changes: (n, t, w, inner)."""
        found = at(hidden, places.flatten(0, 1)) + self.kind.weight[0]  # (n * t, w, inner)
        return found.unflatten(0, places.shape[:2])  # type: ignore[no-any-return]

    def forward(
        self,
        hidden: Tensor,
        places: Tensor,
        there: Tensor,
        kinds: Tensor,
        mask: Tensor,
        namings: Tensor | None = None,
    ) -> Tensor:
        """The units under each turn: (n, t, s * l, inner) -> (n, t, u, d), zeros where no unit is.

        places, there: (n, t, u, p), where each unit's word pieces stand. kinds, mask: (n, u).
        namings: (n, t, u), whether the utterance names them, where there is one.
        """
        seen = self._pooled(hidden, places, there, kinds, namings)
        for layer in self.layers:
            seen = layer(seen, mask[:, None])
        return self.merged(seen, mask)

    def _pooled(
        self, hidden: Tensor, places: Tensor, there: Tensor, kinds: Tensor, namings: Tensor | None
    ) -> Tensor:
        seen = self.pool(hidden, places, there) + self.kind(kinds)[:, None]  # (n, t, u, inner)
        if self.naming is not None and namings is not None:
            seen = seen + self.naming(namings)
        return seen  # type: ignore[no-any-return]

    def together(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Utterances (n, t, w, d) and units (n, t, u, d), the layers having run over both."""
        said = self.pieces(hidden, batch["utterance_pieces"])  # (n, t, w, inner)
        places, there, kinds = (batch[f"unit_{key}"] for key in ("pieces", "piece_mask", "kinds"))
        units = self._pooled(hidden, places, there, kinds, batch.get("unit_namings"))
        mask = batch["unit_mask"][:, None].expand(units.shape[:3])  # (n, t, u)
        mask = torch.cat([batch["utterance_mask"], mask], 2)  # (n, t, w + u)
        both = torch.cat([said, units], 2)  # (n, t, w + u, inner)
        for layer in self.layers:
            both = layer(both, mask)
        said, units = both.split([said.shape[2], units.shape[2]], 2)
        return self.say(said), self.merged(units, batch["unit_mask"])

    def merged(self, seen: Tensor, mask: Tensor) -> Tensor:
        """As `merge`, with zeros where no unit is: mask (n, u)."""
        return self.merge(seen * mask[:, None, :, None]) * mask[:, None, :, None]

    def merge(self, seen: Tensor) -> Tensor:
        """What the units were under this turn and earlier ones: (n, t, u, inner) -> (n, t, u, d).

        Slot k holds them as seen k turns ago; before the first turn there are zeros.
        """
        n, t, u, inner = seen.shape
        slots = self.config.merge_turns
        before = seen.new_zeros(n, slots - 1, u, inner)
        flat = torch.cat([before, seen], 1).flatten(1, 2)  # (n, (slots - 1 + t) * u, inner)
        turn = torch.arange(t, device=seen.device)[:, None, None]  # (t, 1, 1)
        slot = torch.arange(slots, device=seen.device)[:, None]  # (k, 1)
        unit = torch.arange(u, device=seen.device)  # (u,)
        if self.faults.unit_index_offset:
            unit = (unit + 1) % u
        merged = flat[:, (slots - 1 + turn - slot) * u + unit]  # (n, t, k, u, inner)
        there = (turn >= slot)[..., None].to(seen.dtype)  # (t, k, 1, 1)
        merged = merged + self.distance.weight[:, None] * there  # signals of turns that are there
        if self.config.utterance_mask:
            merged = merged * there
        if self.config.merge == "add":
            return self.join(merged.sum(2))  # type: ignore[no-any-return]
        # (n, t, k, u, inner) -> (n, t, u, k * inner)
        return self.join(merged.transpose(2, 3).flatten(3))  # type: ignore[no-any-return]


class Pool(nn.Module):
    """Each unit's own word pieces as one vector."""

    def __init__(self, config: Config, faults: Faults) -> None:
        super().__init__()
        self.config = config
        self.faults = faults

    def forward(self, hidden: Tensor, places: Tensor, there: Tensor) -> Tensor:
        """(n, t, s * l, inner) at (n, t, u, p) -> (n, t, u, inner)."""
        n, t, u, p = places.shape
        places = (places + self.faults.misaligned).clamp(0, hidden.shape[2] - 1)
        found = at(hidden, places.view(n * t, u * p))  # (n * t, u * p, inner)
        found = found.view(n, t, u, p, -1)
        count = there.sum(-1, keepdim=True).clamp(min=1)  # (n, t, u, 1)
        if not self.faults.sum_over_padding:
            found = found * there[..., None]
        summed = found.sum(3)  # (n, t, u, p, inner) -> (n, t, u, inner)
        return summed / count if self.config.pooling == "mean" else summed


def at(hidden: Tensor, places: Tensor) -> Tensor:
    """The rows at these places: (n, t, m, f) at (n * t, q) -> (n * t, q, f)."""
    index = places[..., None].expand(-1, -1, hidden.shape[-1])  # (n * t, q) -> (n * t, q, f)
    return hidden.flatten(0, 1).gather(1, index)


class Layer(nn.Module):
    """One transformer layer over the units of a turn, normalised before."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.projections = nn.Linear(width, 3 * width)
        self.back = nn.Linear(width, width)
        self.before_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, units: Tensor, mask: Tensor) -> Tensor:
        """(n, t, u, d) with mask (n, 1 or t, u) -> (n, t, u, d)."""
        units = units + self.dropout(self._attended(self.before_attention(units), mask))
        return units + self.dropout(self.feed(self.before_feed(units)))  # type: ignore[no-any-return]

    def _attended(self, units: Tensor, mask: Tensor) -> Tensor:
        n, t, u, d = units.shape
        # (n, t, u, 3 * d) -> 3 x (n, t, head, u, d / head)
        split = self.projections(units).view(n, t, u, 3, self.heads, d // self.heads)
        query, key, value = split.permute(3, 0, 1, 4, 2, 5)
        scores = query @ key.transpose(-1, -2) * (d // self.heads) ** -0.5  # (n, t, head, u, u)
        hidden = scores.masked_fill(~mask[:, :, None, None], torch.finfo(scores.dtype).min)
        read = hidden.softmax(-1) @ value  # (n, t, head, u, d / head)
        return self.back(read.transpose(2, 3).flatten(3))  # type: ignore[no-any-return]
