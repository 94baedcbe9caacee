from __future__ import annotations

import pytest
import torch
from torch import nn

from model.config import Config
from model.optimise import clipped, factor, optimizer, schedule


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.decoder = nn.Linear(2, 1)


def test_bert_has_a_rate_of_its_own() -> None:
    made = optimizer(Config(lr=0.5, bert_lr=0.25), Tiny())
    assert [group["lr"] for group in made.param_groups] == [0.5, 0.25]
    assert [len(group["params"]) for group in made.param_groups] == [2, 2]


def test_a_frozen_bert_is_not_held() -> None:
    model = Tiny()
    model.encoder.requires_grad_(False)
    made = optimizer(Config(lr=0.5), model)
    assert [group["lr"] for group in made.param_groups] == [0.5]


@pytest.mark.parametrize(
    ("config", "want"),
    [
        (Config(), [1, 1, 1, 1]),
        (Config(warmup=3), [0.25, 0.5, 0.75, 1]),
        (Config(schedule="linear", steps=4), [1, 0.75, 0.5, 0.25]),
        (Config(schedule="linear", steps=5, warmup=1), [0.5, 1, 0.75, 0.5]),
    ],
)
def test_factor(config: Config, want: list[float]) -> None:
    assert [factor(config, step) for step in range(4)] == want


def test_schedule_moves_both_rates() -> None:
    config = Config(lr=1.0, bert_lr=0.5, schedule="linear", steps=2)
    made = optimizer(config, Tiny())
    plan = schedule(config, made)
    assert [group["lr"] for group in made.param_groups] == [1.0, 0.5]
    made.step()
    plan.step()
    assert [group["lr"] for group in made.param_groups] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("scope", "want"),
    [
        ("none", []),
        ("all_but_bert", ["decoder.weight", "decoder.bias"]),
        ("all", ["decoder.weight", "decoder.bias", "encoder.weight", "encoder.bias"]),
    ],
)
def test_scope_of_clipping(scope: str, want: list[str]) -> None:
    model = Tiny()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    config = Config(clip=scope)  # type: ignore[arg-type]
    found = [names[id(parameter)] for parameter in clipped(config, model)]
    assert found == want
    assert all(isinstance(each, torch.nn.Parameter) for each in clipped(config, model))
