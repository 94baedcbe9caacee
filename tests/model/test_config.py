from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from model.config import RANGES, TINY, Config, from_json
from model.options import value_of
from probes.errors import RequestError


def test_json_and_back() -> None:
    config = Config(model="seq2seq", max_turn=1, tiny_dataset=True, lr=1)
    assert from_json(config.as_json()) == config


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "want"), [(False, None), (0, None), (True, TINY), (1, 1), (5, 5)]
)
def test_tiny(given: bool | int, want: int | None) -> None:
    assert Config(tiny_dataset=given).tiny == want


def test_an_unknown_field_gets_a_sentence() -> None:
    with pytest.raises(RequestError, match="`lrr` is no field of the configuration: expected one"):
        from_json({"lrr": 1.0})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "x"}, "`loss` is 'x': expected sum, key, db, by_count, by_size"),
        ({"shuffle": 1}, "`shuffle` is 1: expected bool"),
        ({"max_turn": True}, "`max_turn` is True: expected int or none"),
        ({"max_turn": 0}, "`max_turn` is 0: expected at least 1"),
        ({"lr": float("nan")}, "`lr` is nan: expected at least 0"),
        ({"dropout": 1.5}, "`dropout` is 1.5: expected at least 0 and at most 1"),
        ({"bert_width": 63}, "`bert_heads` is 4, which does not divide the width 63"),
        (
            {"transformer_layers": 1, "transformer_heads": 5},
            "`transformer_heads` is 5, which does not divide the width 64",
        ),
    ],
)
def test_a_wrong_value_gets_a_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as error:
        Config(**changes)
    assert said in str(error.value)


def test_heads_that_nothing_uses_are_not_judged() -> None:
    assert Config(transformer_heads=5).transformer_layers == 0
    assert Config(encoder="minilm", bert_heads=5).bert_heads == 5


def test_every_number_has_a_range() -> None:
    numbers = {each.name for each in fields(Config) if type(each.default) in (int, float)}
    assert numbers - {"seed"} <= set(RANGES)


def test_every_field_can_be_an_option() -> None:
    from typing import get_type_hints

    hints = get_type_hints(Config)
    for each in fields(Config):
        text = "none" if each.default is None else str(each.default)
        assert value_of(hints[each.name], text) == each.default
