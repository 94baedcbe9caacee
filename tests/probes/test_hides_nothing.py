"""Masks that are laid over scores and hide nothing, and what looks like them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checks.hides_nothing import HidesNothing
from probes.experiment import Experiment
from probes.finding import judge
from probes.seeding import seed_everything

Weigh = Callable[[Tensor, Tensor], Tensor]
LOW = float("-inf")
LENGTHS = torch.tensor([7, 6, 5, 3, 2, 4])


class Attention(nn.Module):
    def __init__(self, weigh: Weigh) -> None:
        super().__init__()
        self.embedding, self.into, self.out = (
            nn.Embedding(30, 16),
            nn.Linear(16, 48),
            nn.Linear(16, 3),
        )
        self.weigh = weigh

    def forward(self, ids: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (2, 8)).transpose(1, 2)
            for part in self.into(self.embedding(ids)).chunk(3, -1)
        )
        weights = self.weigh(q @ k.mT / 8**0.5, (ids != 0)[:, None, None])
        hidden = (weights @ v).transpose(1, 2).flatten(2)
        logits: Tensor = self.out(hidden[:, 0])
        return logits


def said(model: nn.Module) -> list[str]:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 30, (6, 7), generator=chance) * (torch.arange(7) < LENGTHS[:, None])
    subject = Subject(
        model,
        [{"ids": ids, "labels": ids[:, 0] % 3}],
        lambda model, b: F.cross_entropy(model(b["ids"]), b["labels"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    seed_everything(0)
    return [f.message for f in judge([HidesNothing()], Experiment.of(subject)).findings]


def earlier(scores: Tensor) -> Tensor:
    return torch.ones(scores.shape[-2:], dtype=torch.bool).tril()


def again(scores: Tensor, keep: Tensor) -> Tensor:
    """As masked softmaxes do that take no -inf: masked before and after, then made whole."""
    weights = (scores * keep).softmax(-1) * keep
    return weights / weights.sum(-1, keepdim=True)


SICK: dict[str, Weigh] = {
    "truths added": lambda s, k: (s + k.float()).softmax(-1),
    "booleans added": lambda s, k: (s + k).softmax(-1),
    "triangle added": lambda s, k: (s + earlier(s).float()).softmax(-1),
    "triangle less one": lambda s, k: (s + (earlier(s).float() - 1)).softmax(-1),
    "band added": lambda s, k: (s + earlier(s).float().triu(-2)).softmax(-1),
    "truths multiplied": lambda s, k: (s * k).softmax(-1),
    "small fill": lambda s, k: s.masked_fill(~k, -1e-9).softmax(-1),
    "small addend": lambda s, k: (s + (1.0 - k.float()) * -1e-9).softmax(-1),
    "zero fill": lambda s, k: torch.where(k, s, 0.0).softmax(-1),
    "large fill": lambda s, k: s.masked_fill(~k, 1e9).softmax(-1),
    "additive multiplied": lambda s, k: (s * torch.where(k, 0.0, -1e9)).softmax(-1),
    "in another shape": lambda s, k: (
        (s + k.float()).flatten(0, 1).softmax(-1).unflatten(0, (-1, 2))
    ),
}
HEALTHY: dict[str, Weigh] = {
    "filled": lambda s, k: s.masked_fill(~k, LOW).softmax(-1),
    "added": lambda s, k: (s + torch.where(k, 0.0, -1e9)).softmax(-1),
    "masked again": again,
    "bias then mask": lambda s, k: (
        (s + earlier(s).float()).masked_fill(~earlier(s), LOW).softmax(-1)
    ),
    "bias of a graph": lambda s, k: (
        s + torch.tensor([[0.0, 1, 0, 0, 1, 0, 1]] * 7).mul(torch.arange(7)[:, None] % 3 == 0)
    ).softmax(-1),
    "bias of the own place": lambda s, k: (s + torch.eye(7)).softmax(-1),
    "bias of distance": lambda s, k: (
        s - (torch.arange(7) - torch.arange(7)[:, None]).abs() / 7
    ).softmax(-1),
}


@pytest.mark.parametrize("name", SICK)
def test_a_mask_that_hides_nothing_is_told(name: str) -> None:
    assert len(said(Attention(SICK[name]))) == 1


@pytest.mark.parametrize("name", HEALTHY)
def test_what_hides_and_what_is_a_bias_is_silence(name: str) -> None:
    assert said(Attention(HEALTHY[name])) == []


class Layers(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(30, 16), nn.Linear(16, 3)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(self.layer, 2, enable_nested_tensor=False)
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.layers(self.embedding(ids), src_key_padding_mask=(ids == 0).to(self.dtype))
        logits: Tensor = self.out(hidden[:, 0])
        return logits


@pytest.mark.parametrize(("dtype", "count"), [(torch.float32, 1), (torch.bool, 0)])
def test_a_padding_mask_of_floats_is_added_by_the_layers_of_torch(
    dtype: torch.dtype, count: int
) -> None:
    assert len(said(Layers(dtype))) == count
