"""A small translator, and ways to search with it: what each picks of its states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDE, WORDS, BEAMS, SAMPLES, STEPS = 16, 9, 4, 3, 6


class Translator(nn.Module):
    """Ids in, ids out, by whichever decoder a search asks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder = nn.Embedding(WORDS, WIDE), nn.GRU(WIDE, WIDE, batch_first=True)
        self.cell, self.pair = nn.GRUCell(WIDE, WIDE), nn.LSTMCell(WIDE, WIDE)
        self.fed = nn.GRUCell(2 * WIDE, WIDE)
        self.lstm, self.gru = nn.LSTM(WIDE, WIDE, 2), nn.GRU(WIDE, WIDE)
        self.key, self.value = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE)
        self.head = nn.Linear(WIDE, WORDS)
        for each in self.parameters():
            nn.init.normal_(each, std=0.6)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        h = self.encoder(self.embed(src))[1]
        out: Tensor = self.head(self.gru(self.embed(tgt).transpose(0, 1), h)[0].transpose(0, 1))
        return out

    def started(self, src: Tensor) -> Tensor:
        """(beam, unit) the encoder's last state, the same for all beams of a sample."""
        h: Tensor = self.encoder(self.embed(src))[1][0]
        return h.repeat_interleave(BEAMS, 0)

    def attended(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(beam, unit) the values (beam, place, unit) by how their keys fit."""
        out: Tensor = torch.einsum("bp,bpd->bd", _weights(query, keys), values)
        return out


def _weights(query: Tensor, keys: Tensor) -> Tensor:
    return torch.einsum("bd,bpd->bp", query, keys).softmax(-1)


Step = Callable[[Translator, Tensor, Any], tuple[Tensor, Any]]
Keep = Callable[[Any, Tensor], Any]


def beams(net: Translator, src: Tensor, state: Any, step: Step, keep: Keep) -> Tensor:
    """(sample, place) the best ids. step: logits and state of ids and state; keep: picks states."""
    base = torch.arange(len(src))[:, None] * BEAMS
    seqs = torch.zeros(len(src) * BEAMS, 1, dtype=torch.long)
    scores = torch.full((len(src), BEAMS), -1e9)
    scores[:, 0] = 0
    for _ in range(STEPS):
        logits, state = step(net, seqs, state)
        total = scores.view(-1, 1) + logits.log_softmax(-1)
        scores, flat = total.view(len(src), -1).topk(BEAMS)
        parent, token = (base + flat // WORDS).view(-1), (flat % WORDS).view(-1, 1)
        state = keep(state, parent)
        seqs = torch.cat([seqs[parent], token], 1)
    return seqs.view(len(src), BEAMS, -1)[:, 0]


def with_pool(net: Translator, src: Tensor, step: Step, keep: Keep) -> Tensor:
    """As `beams`, of twice as many candidates, with the best that are finished in a pool."""
    count, base = len(src), torch.arange(len(src))[:, None] * BEAMS
    live = torch.zeros(count, BEAMS, 1, dtype=torch.long)
    ended, best = torch.zeros(count, BEAMS, STEPS + 1, dtype=torch.long), torch.zeros(count, BEAMS)
    best, scores = best - 1e4, best - 1e9
    scores[:, 0], state = 0, net.started(src)
    for t in range(STEPS):
        logits, state = step(net, live.flatten(0, 1), state)
        total = (scores.view(-1, 1) + logits.log_softmax(-1)).view(count, -1)
        top, flat = total.topk(2 * BEAMS)
        parent, token = flat // WORDS, flat % WORDS
        both = live.gather(1, parent[..., None].expand(-1, -1, t + 1))
        both = torch.cat([both, token[..., None]], 2)
        over = token == 1
        pool = torch.cat([best, top.masked_fill(~over, -1e9)], 1)
        best, index = pool.topk(BEAMS)
        padded = F.pad(both, (0, STEPS - 1 - t))
        ended = torch.cat([ended, padded], 1).gather(1, index[..., None].expand(-1, -1, STEPS + 1))
        scores, index = top.masked_fill(over, -1e9).topk(BEAMS)
        live = both.gather(1, index[..., None].expand(-1, -1, t + 2))
        state = keep(state, (base + parent.gather(1, index)).flatten())
    return torch.where(best[:, :1] > scores[:, :1], ended[:, 0], live[:, 0])


def nothing(state: Any, parent: Tensor) -> Any:
    return state


def rows(state: Any, parent: Tensor) -> Any:
    if isinstance(state, Tensor):
        return state.index_select(0, parent)
    return None if state is None else type(state)(rows(each, parent) for each in state)


def by_cell(net: Translator, seqs: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    h = net.cell(net.embed(seqs[:, -1]), h)
    return net.head(h), h


def by_pair(net: Translator, seqs: Tensor, state: Any) -> tuple[Tensor, Any]:
    h, c = net.pair(net.embed(seqs[:, -1]), tuple(state))
    return net.head(h), (h, c)


def by_layers(net: Translator, seqs: Tensor, state: Any) -> tuple[Tensor, Any]:
    out, state = net.lstm(net.embed(seqs[:, -1:]).transpose(0, 1), state)
    return net.head(out[0]), state


def by_cache(net: Translator, seqs: Tensor, cache: Any) -> tuple[Tensor, Any]:
    x = net.embed(seqs[:, -1])
    new = [net.key(x)[:, None], net.value(x)[:, None]]
    cache = new if cache is None else [torch.cat(pair, 1) for pair in zip(cache, new, strict=True)]
    return net.head(net.attended(x, *cache)), cache


def by_whole_prefix(net: Translator, seqs: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    x = net.embed(seqs) + memory[:, None]
    return net.head(net.attended(x[:, -1], net.key(x), net.value(x))), memory


def with_context(net: Translator, seqs: Tensor, state: Any) -> tuple[Tensor, Any]:
    h, context, memory = state
    h = net.fed(torch.cat([net.embed(seqs[:, -1]), context], -1), h)
    context = net.attended(h, memory, memory)
    return net.head(h + context), (h, context, memory)


def with_memory(net: Translator, src: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    memory = net.encoder(net.embed(src))[0].repeat_interleave(BEAMS, 0)
    return memory[:, -1], torch.zeros(len(memory), WIDE), memory


def ids() -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(3)
    src = torch.randint(1, WORDS, (SAMPLES, 4), generator=chance)
    return {"src": src, "tgt": src.flip(1)}


def taught(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = net(batch["src"], F.pad(batch["tgt"][:, :-1], (1, 0)))
    return F.cross_entropy(logits.flatten(0, 1), batch["tgt"].flatten())
