"""Searches that pick tokens, with the states of their hypotheses or without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything
from tests.probes.searches import (
    BEAMS,
    STEPS,
    WIDE,
    Translator,
    beams,
    by_cache,
    by_cell,
    by_layers,
    by_pair,
    by_whole_prefix,
    ids,
    nothing,
    rows,
    taught,
    with_context,
    with_memory,
    with_pool,
)

Search = Callable[[Translator, Tensor], Tensor]


def said(search: Search, metric: bool = False) -> list[Finding]:
    seed_everything(0)

    def right(net: Any, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        best = search(net, batch["src"])
        return (best[:, 1:5] == batch["tgt"]).all(1).sum(), len(best)

    subject = Subject(
        Translator(),
        [ids()],
        taught,
        lambda model: torch.optim.Adam(model.parameters()),
        predict=None if metric else lambda model, batch: search(model, batch["src"]),
        metrics={"right": right} if metric else {},
    )
    judged = check(subject, chosen(["STA020"]))
    assert not [each for each in judged.not_judged if each.code == "STA020"]
    return list(judged.findings)


def plain(net: Translator, src: Tensor) -> Tensor:
    return beams(net, src, net.started(src), by_cell, nothing)


def one_of_two(net: Translator, src: Tensor) -> Tensor:
    h = net.started(src)
    return beams(net, src, (h, h * 0), by_pair, lambda s, parent: (s[0][parent], s[1]))


def layers_first(net: Translator, src: Tensor) -> Tensor:
    h = net.started(src).expand(2, -1, -1).contiguous()
    return beams(net, src, (h, h * 0), by_layers, nothing)


def cached(net: Translator, src: Tensor) -> Tensor:
    return beams(net, src, None, by_cache, nothing)


def context_left(net: Translator, src: Tensor) -> Tensor:
    def keep(state: Any, parent: Tensor) -> Any:
        h, context, memory = state
        return h[parent], context, memory

    return beams(net, src, with_memory(net, src), with_context, keep)


def by_sample(pick_state: bool) -> Search:
    """Tokens (sample, beam, place), picked by `gather`; scores over beams in two stages."""

    def search(net: Translator, src: Tensor) -> Tensor:
        count = len(src)
        h = net.started(src)
        seqs = torch.zeros(count, BEAMS, 1, dtype=torch.long)
        scores = torch.tensor([0.0] + [-1e9] * (BEAMS - 1)).repeat(count, 1)
        for _ in range(STEPS):
            logits, h = by_cell(net, seqs.flatten(0, 1), h)
            top, likely = logits.log_softmax(-1).topk(BEAMS)
            total = (scores.view(-1, 1) + top).view(count, -1)
            scores, flat = total.topk(BEAMS)
            parent = torch.div(flat, BEAMS, rounding_mode="floor")
            token = likely.view(count, -1).gather(1, flat)
            if pick_state:
                index = parent[..., None].expand(-1, -1, WIDE)
                h = h.view(count, BEAMS, WIDE).gather(1, index).flatten(0, 1)
            seqs = seqs.gather(1, parent[..., None].expand_as(seqs))
            seqs = torch.cat([seqs, token[..., None]], 2)
        return seqs[:, 0]

    return search


def pooled(net: Translator, src: Tensor) -> Tensor:
    return with_pool(net, src, by_cell, nothing)


def in_one_tensor(pick_state: bool) -> Search:
    """Tokens (place, beam) stand in a tensor as long as they will be."""

    def search(net: Translator, src: Tensor) -> Tensor:
        h, base = net.started(src), torch.arange(len(src))[:, None] * BEAMS
        seqs = torch.zeros(STEPS + 1, len(h), dtype=torch.long)
        scores = torch.tensor([0.0] + [-1e9] * (BEAMS - 1)).repeat(len(src), 1)
        for t in range(STEPS):
            logits, h = by_cell(net, seqs[: t + 1].t(), h)
            total = scores.view(-1, 1) + logits.log_softmax(-1)
            scores, flat = total.view(len(src), -1).topk(BEAMS)
            parent = (base + flat // logits.shape[1]).view(-1)
            seqs[:] = seqs[:, parent]
            seqs[t + 1] = (flat % logits.shape[1]).view(-1)
            h = h[parent] if pick_state else h
        return seqs[:, ::BEAMS].t()

    return search


def particles(pick_state: bool) -> Search:
    """Hypotheses are drawn again by their weights."""

    def search(net: Translator, src: Tensor) -> Tensor:
        h = net.started(src)
        seqs = torch.zeros(len(h), 1, dtype=torch.long)
        for _ in range(STEPS):
            logits, h = by_cell(net, seqs, h)
            token = torch.multinomial(logits.softmax(-1), 1)
            seqs = torch.cat([seqs, token], 1)
            weights = logits.gather(1, token).view(len(src), BEAMS).softmax(-1)
            again = torch.multinomial(weights, BEAMS, replacement=True)
            again = (again + torch.arange(len(src))[:, None] * BEAMS).flatten()
            seqs, h = seqs[again], h[again] if pick_state else h
        return seqs[::BEAMS]

    return search


@pytest.mark.parametrize(
    ("search", "site"),
    [
        (plain, "cell"),
        (one_of_two, "pair"),
        (layers_first, "lstm"),
        (cached, "model"),
        (context_left, "model"),
        (by_sample(False), "cell"),
        (pooled, "cell"),
        (in_one_tensor(False), "cell"),
        (particles(False), "cell"),
    ],
)
def test_a_state_that_is_not_picked_is_told(search: Search, site: str) -> None:
    (finding,) = said(search)
    assert finding.verdict is Verdict.WARN
    assert finding.site == site
    assert "py:" in (finding.source or "")


def test_a_search_of_a_metric_is_watched() -> None:
    (finding,) = said(plain, metric=True)
    assert finding.site == "cell"


def picked(net: Translator, src: Tensor) -> Tensor:
    return beams(net, src, net.started(src), by_cell, rows)


def both(net: Translator, src: Tensor) -> Tensor:
    h = net.started(src)
    return beams(net, src, (h, h * 0), by_pair, rows)


def along_the_second_axis(net: Translator, src: Tensor) -> Tensor:
    h = net.started(src).expand(2, -1, -1).contiguous()
    return beams(net, src, (h, h * 0), by_layers, lambda s, p: tuple(each[:, p] for each in s))


def cache_picked(net: Translator, src: Tensor) -> Tensor:
    return beams(net, src, None, by_cache, rows)


def memory_left(net: Translator, src: Tensor) -> Tensor:
    def keep(state: Any, parent: Tensor) -> Any:
        return state[0][parent], state[1][parent], state[2]

    return beams(net, src, with_memory(net, src), with_context, keep)


def whole_prefix(net: Translator, src: Tensor) -> Tensor:
    return beams(net, src, net.started(src), by_whole_prefix, nothing)


def a_step_later(net: Translator, src: Tensor) -> Tensor:
    def step(net: Translator, seqs: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, parent = state
        return by_cell(net, seqs, h if parent is None else h[parent])

    return beams(net, src, (net.started(src), None), step, lambda h, parent: (h, parent))


def by_hand(net: Translator, src: Tensor) -> Tensor:
    def keep(h: Tensor, parent: Tensor) -> Tensor:
        return torch.stack([h[i] for i in parent.tolist()])

    return beams(net, src, net.started(src), by_cell, keep)


def by_numbers(net: Translator, src: Tensor) -> Tensor:
    def keep(h: Tensor, parent: Tensor) -> Tensor:
        return h[torch.tensor([int(i) for i in parent])]

    return beams(net, src, net.started(src), by_cell, keep)


def by_one_hot(net: Translator, src: Tensor) -> Tensor:
    def keep(h: Tensor, parent: Tensor) -> Tensor:
        return F.one_hot(parent, len(h)).float() @ h

    return beams(net, src, net.started(src), by_cell, keep)


def in_place(net: Translator, src: Tensor) -> Tensor:
    def keep(h: Tensor, parent: Tensor) -> Tensor:
        return h.copy_(h[parent])

    return beams(net, src, net.started(src), by_cell, keep)


def sample_by_sample(net: Translator, src: Tensor) -> Tensor:
    def keep(h: Tensor, parent: Tensor) -> Tensor:
        for start in range(0, len(h), BEAMS):
            part = slice(start, start + BEAMS)
            h[part] = h[part][parent[part] - start]
        return h

    return beams(net, src, net.started(src), by_cell, keep)


def in_a_buffer(net: Translator, src: Tensor) -> Tensor:
    """All states so far in one tensor, of which each step reads the last."""
    first = net.started(src)
    states = torch.zeros(STEPS + 1, *first.shape)
    states[0] = first

    def step(net: Translator, seqs: Tensor, t: int) -> tuple[Tensor, int]:
        logits, states[t + 1] = by_cell(net, seqs, states[t])
        return logits, t + 1

    def keep(t: int, parent: Tensor) -> int:
        states[t] = states[t][parent]
        return t

    return beams(net, src, 0, step, keep)


def cache_in_place(net: Translator, src: Tensor) -> Tensor:
    """Keys and values in tensors as long as they will be, whose rows are picked in place."""
    cache = torch.zeros(2, len(src) * BEAMS, STEPS, WIDE)

    def step(net: Translator, seqs: Tensor, t: int) -> tuple[Tensor, int]:
        x = net.embed(seqs[:, -1])
        cache[0, :, t], cache[1, :, t] = net.key(x), net.value(x)
        return net.head(net.attended(x, *cache[:, :, : t + 1])), t + 1

    def keep(t: int, parent: Tensor) -> int:
        cache[:, :, :t] = cache[:, parent, :t]
        return t

    return beams(net, src, 0, step, keep)


def pool_and_states(net: Translator, src: Tensor) -> Tensor:
    return with_pool(net, src, by_cell, rows)


def with_slots(net: Translator, src: Tensor) -> Tensor:
    """What is best so far in each row, sorted at every step, beside the search."""
    held: list[Tensor] = []

    def step(net: Translator, seqs: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        logits, h = by_cell(net, seqs, h)
        now = logits.amax(-1)
        score, words = held or (now - 1, seqs)
        better, words = now > score, F.pad(words, (0, seqs.shape[1] - words.shape[1]))
        score, words = torch.where(better, now, score), torch.where(better[:, None], seqs, words)
        order = score.argsort(descending=True)
        held[:] = [score[order], words[order]]
        return logits, h

    beams(net, src, net.started(src), step, rows)
    return held[1][: len(src)]


def maps_for_show(net: Translator, src: Tensor) -> Tensor:
    """Attention of all steps is kept as it came, for a picture, and picked nowhere."""
    memory, maps = with_memory(net, src)[2], list[Tensor]()

    def step(net: Translator, seqs: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        logits, h = by_cell(net, seqs, h)
        maps.append(torch.einsum("bd,bpd->bp", h, memory).softmax(-1))
        torch.stack(maps, 1).argmax(-1)
        return logits, h

    return beams(net, src, net.started(src), step, rows)


def from_chosen_rows(net: Translator, src: Tensor) -> Tensor:
    """The encoder picks what it keeps by a search of its own."""
    memory = net.encoder(net.embed(src))[0]
    index = net.head(memory).amax(-1).topk(2).indices
    memory = memory.gather(1, index[..., None].expand(-1, -1, WIDE)).repeat_interleave(BEAMS, 0)
    state = memory[:, -1], memory[:, 0] * 0, memory
    return beams(
        net, src, state, with_context, lambda s, parent: (s[0][parent], s[1][parent], s[2])
    )


def greedy(net: Translator, src: Tensor) -> Tensor:
    h, seqs = net.started(src), torch.zeros(len(src) * BEAMS, 1, dtype=torch.long)
    for _ in range(STEPS):
        logits, h = by_cell(net, seqs, h)
        seqs = torch.cat([seqs, logits.argmax(-1, keepdim=True)], 1)
    return seqs[::BEAMS]


def sampled(net: Translator, src: Tensor) -> Tensor:
    """Several draws a sample, of which the likeliest so far is looked at in each step."""
    h, seqs = net.started(src), torch.zeros(len(src) * BEAMS, 1, dtype=torch.long)
    scores, best = torch.zeros(len(h), 1), seqs
    for _ in range(STEPS):
        logits, h = by_cell(net, seqs, h)
        token = torch.multinomial(logits.softmax(-1), 1)
        seqs, scores = torch.cat([seqs, token], 1), scores + logits.gather(1, token)
        best = seqs[scores[:, 0].argsort(descending=True)]
    return best[: len(src)]


def in_lists(net: Translator, src: Tensor) -> Tensor:
    found = []
    for h in net.started(src)[::BEAMS]:
        live = [(0.0, [0], h[None])]
        for _ in range(STEPS):
            after = []
            for score, words, state in live:
                logits, new = by_cell(net, torch.tensor([words]), state)
                top, likely = logits[0].log_softmax(-1).topk(BEAMS)
                pairs = zip(top.tolist(), likely.tolist(), strict=True)
                after += [(score + s, [*words, w], new) for s, w in pairs]
            live = sorted(after, key=lambda each: -each[0])[:BEAMS]
        found.append(live[0][1])
    return torch.tensor(found)


@pytest.mark.parametrize(
    "search",
    [
        *(picked, both, along_the_second_axis, cache_picked, memory_left, whole_prefix),
        *(a_step_later, by_hand, by_numbers, by_one_hot, in_place, sample_by_sample),
        *(in_a_buffer, cache_in_place, greedy, sampled, in_lists, pool_and_states),
        *(with_slots, maps_for_show, from_chosen_rows),
        *(by_sample(True), particles(True), in_one_tensor(True)),
    ],
)
def test_nothing_is_said_of_other_searches(search: Search) -> None:
    assert said(search) == []
