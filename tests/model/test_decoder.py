from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import Config
from model.decoder import FARTHEST, Decoder
from model.faults import Faults
from model.parser import Memory

WIDTH = 8


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(Config(width=WIDTH), Faults())


def memory(rows: int) -> Memory:
    def drawn(length: int) -> Tensor:
        return torch.randn(rows, length, WIDTH)

    def every(length: int) -> Tensor:
        return torch.ones(rows, length, dtype=torch.bool)

    return Memory(
        steps=drawn(9),
        units=drawn(5),
        unit_mask=every(5),
        utterance=drawn(4),
        utterance_mask=every(4),
        start=(drawn(1)[:, 0], drawn(1)[:, 0]),
        previous=drawn(6),
        previous_mask=every(6),
    )


def test_the_session_is_an_rnn_over_turns(decoder: Decoder) -> None:
    said, before = torch.randn(2, 3, WIDTH), torch.randn(2, 3, WIDTH)
    h, c = decoder.start(said, before)
    state = None
    for turn in range(3):
        state = decoder.session_cell(torch.cat([said[:, turn], before[:, turn]], -1), state)
        assert torch.equal(h.view(2, 3, WIDTH)[:, turn], state[0])
        assert torch.equal(c.view(2, 3, WIDTH)[:, turn], state[1])


def test_the_sql_rnn_starts_from_the_session_and_carries_its_state(decoder: Decoder) -> None:
    read, given = memory(2), torch.randn(2, 4, WIDTH)
    hidden = []
    decoder.fuse.register_forward_hook(lambda _, inputs, __: hidden.append(inputs[0]))
    decoder(read, given)
    state = read.start
    for step in range(4):
        state = decoder.sql_cell(given[:, step], state)
        assert torch.equal(hidden[0][:, step, :WIDTH], state[0])


@pytest.mark.parametrize("part", ["units", "utterance", "previous"])
def test_masked_entries_are_not_read(decoder: Decoder, part: str) -> None:
    read, given = memory(2), torch.randn(2, 4, WIDTH)
    mask = f"{part}_mask".replace("units", "unit")
    hidden = getattr(read, mask).clone()
    hidden[:, -1] = False
    other = getattr(read, part).clone()
    other[:, -1] += 5
    read = replace(read, **{mask: hidden})
    changed = replace(read, **{part: other})
    assert torch.equal(decoder(read, given), decoder(changed, given))
    every = {mask: torch.ones_like(hidden)}
    assert not torch.equal(
        decoder(replace(read, **every), given), decoder(replace(changed, **every), given)
    )


def test_previous_queries_are_those_of_earlier_turns(decoder: Decoder) -> None:
    queries = torch.randn(1, 3, 2, WIDTH)
    there = torch.tensor([[[True, True], [True, False], [True, True]]])
    read, mask = decoder.previous(queries, there)
    assert mask[0].tolist() == [
        [False] * 6,
        [True, True, False, False, False, False],
        [True, True, True, False, False, False],
    ]
    read = read.view(3, 3, 2, WIDTH)
    for turn in range(3):
        for earlier in range(turn):
            signal = decoder.distance.weight[turn - earlier]
            torch.testing.assert_close(read[turn, earlier], queries[0, earlier] + signal)


def test_far_turns_share_a_distance(decoder: Decoder) -> None:
    turns = FARTHEST + 3
    queries = torch.zeros(1, turns, 1, WIDTH)
    read, _ = decoder.previous(queries, torch.ones(1, turns, 1, dtype=torch.bool))
    last = read.view(turns, turns, WIDTH)[-1]
    assert torch.equal(last[0], last[1])
    assert torch.equal(last[0], decoder.distance.weight[FARTHEST])
    assert not torch.equal(last[2], last[3])


def test_attention_over_units_is_a_softmax_into_a_bmm(decoder: Decoder) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[tuple[str, tuple[int, ...]]] = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = func.overloadpacket.__name__
            if name in ("_softmax", "bmm"):
                seen.append((name, tuple(args[0].shape)))
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Seen():
        decoder(memory(2), torch.randn(2, 4, WIDTH))
    at = seen.index(("_softmax", (2, 4, 5)))  # (row, step, unit)
    assert seen[at + 1] == ("bmm", (2, 4, 5))


def test_sites_have_names(small: Any) -> None:
    names = {name for name, _ in small().named_modules()}
    assert {
        "encoder.bert",
        "schema.transform",
        "schema.join",
        "keywords",
        "decoder.session_cell",
        "decoder.sql_cell",
        "decoder.attend_units",
        "decoder.attend_previous",
        "decoder.attend_utterance",
        "keyword_head",
        "unit_head",
    } <= names
