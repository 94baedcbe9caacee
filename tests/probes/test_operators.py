"""What is normalised along one axis and multiplied and summed along another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
N, QUERIES, KEYS, WIDTH, HEADS, CLUSTERS = 9, 6, 5, 12, 3, 4
Work = Callable[["Reader", Tensor, Tensor], Tensor]


class Reader(nn.Module):
    """Reads keys for queries, as it is told to."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.ask, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.assign, self.channels = nn.Linear(WIDTH, CLUSTERS), nn.Conv1d(WIDTH, WIDTH, 1)
        self.out, self.work = nn.Linear(WIDTH, 1), work

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        out: Tensor = self.out(self.work(self, x, context).flatten(1)[:, :WIDTH]).squeeze(-1)
        return out


def said(code: str, work: Work) -> list[Finding]:
    seed_everything(0)
    batch = {
        "x": torch.randn(N, QUERIES, WIDTH),
        "context": torch.randn(N, KEYS, WIDTH),
        "y": torch.randn(N),
    }
    subject = Subject(
        Reader(work),
        [batch],
        lambda model, b: F.mse_loss(model(b["x"], b["context"]), b["y"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    found = check(subject, chosen([code])).findings
    assert all(one.verdict is Verdict.WARN for one in found)
    return list(found)


def heads(tensor: Tensor) -> Tensor:
    return tensor.unflatten(-1, (HEADS, -1))


def over(axis: int) -> Work:
    """Attention by einsum, (sample, query, key, head), softmax over an axis."""

    def work(model: Reader, x: Tensor, context: Tensor) -> Tensor:
        ask, key, value = heads(model.ask(x)), heads(model.key(context)), model.value(context)
        weights = F.dropout(torch.einsum("bihd,bjhd->bijh", ask, key).softmax(axis), 0.1)
        return torch.einsum("b i j h, b j h d -> b i h d", weights, heads(value))

    return work


def summed(axis: int) -> Work:
    """Additive attention by a product and a sum, (sample, query, key)."""

    def work(model: Reader, x: Tensor, context: Tensor) -> Tensor:
        both = (model.ask(x)[:, :, None] + model.key(context)[:, None]).tanh()
        weights = model.assign(both)[..., 0].softmax(axis)
        return (weights[..., None] * model.value(context)[:, None]).sum(2)

    return work


def turned(axis: int) -> Work:
    """Values on the left, channels first."""

    def work(model: Reader, x: Tensor, context: Tensor) -> Tensor:
        scores = model.key(context) @ model.ask(x).transpose(1, 2)  # (sample, key, query)
        return model.value(context).transpose(1, 2) @ scores.softmax(axis)

    return work


def clusters(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    """Items are shared out to clusters, whose vectors are sums."""
    return torch.einsum("bnk,bnd->bkd", model.assign(x).softmax(-1), x)


def slots(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    """Slots compete for items, and then take their mean."""
    weights = torch.einsum("bid,bjd->bij", model.ask(x), model.key(context)).softmax(1)
    weights = weights / weights.sum(2, keepdim=True)
    return torch.einsum("bij,bjd->bid", weights, model.value(context))


def linear(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    """Attention whose cost grows with the length alone."""
    ask, key = model.ask(x).softmax(-1), model.key(context).softmax(1)
    return torch.einsum(
        "bnd,bde->bne", ask, torch.einsum("bnd,bne->bde", key, model.value(context))
    )


def gated(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    """Experts weighed token by token."""
    experts = torch.stack([model.ask(x), model.key(x), model.value(x), x], 2)
    return (model.assign(x).softmax(-1)[..., None] * experts).sum(2)


def overlap(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    """Shares of classes, summed over the places for each class."""
    shares = model.assign(x).softmax(-1)
    return F.pad((shares * x[..., :CLUSTERS].sigmoid()).sum(1), (0, WIDTH))


@pytest.mark.parametrize("work", [over(1), summed(1), turned(2)])
def test_weights_that_are_normalised_over_the_queries_are_told(work: Work) -> None:
    [found] = said("WIR014", work)
    assert "the queries compete" in found.message
    assert found.site == "model"


@pytest.mark.parametrize(
    "work", [over(2), summed(2), turned(1), clusters, slots, linear, gated, overlap]
)
def test_what_competes_on_purpose_is_silent(work: Work) -> None:
    assert said("WIR014", work) == []


def alike(unit: Callable[[Tensor], Tensor]) -> Work:
    """Cosines of queries and keys, features last."""

    def work(model: Reader, x: Tensor, context: Tensor) -> Tensor:
        return torch.einsum("bid,bjd->bij", unit(model.ask(x)), unit(model.key(context)))

    return work


def gram(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    """Of maps whose channels have unit length, over their places."""
    maps = F.normalize(model.channels(x.transpose(1, 2)))
    return maps @ maps.transpose(1, 2)


def matched(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    """Cosines of places by their channels."""
    maps = F.normalize(model.channels(x.transpose(1, 2)))
    return maps.transpose(1, 2) @ maps


def covariance(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    """Attention of channels by channels, unit length along the tokens."""
    ask, key = (F.normalize(each(x), dim=1) for each in (model.ask, model.key))
    return (ask.transpose(1, 2) @ key).softmax(-1) @ model.value(x).transpose(1, 2)


def series(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    """Each series has unit length in time, before a layer reads it."""
    return model.ask(F.normalize(x, dim=1)).relu()


def towers(unit: Callable[[Tensor], Tensor]) -> Work:
    """Every sample's question beside every sample's context, features last."""

    def work(model: Reader, x: Tensor, context: Tensor) -> Tensor:
        one, two = unit(model.ask(x).mean(1)), unit(model.key(context).mean(1))
        return F.pad(5 * one @ two.T, (0, WIDTH))

    return work


def unlike(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    """Which features go together over the samples: unit length along them, summed along them."""
    one, two = (F.normalize(each(x).mean(1), dim=0) for each in (model.ask, model.key))
    return x.mean(1) @ (one.T @ two)


def prototypes(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    """Vectors by the weights of classes, whose columns have unit length."""
    one, two = F.normalize(model.ask(x).mean(1), dim=1), F.normalize(model.value.weight, dim=0)
    return one @ two


def pairs(axis: int) -> Work:
    def work(model: Reader, x: Tensor, context: Tensor) -> Tensor:
        one, two = model.ask(x)[:, :, None], model.key(context)[:, None]
        return F.cosine_similarity(one, two, dim=axis).flatten(1)

    return work


def by_default(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    return F.pad(F.cosine_similarity(model.ask(x)[..., :10], model.value(x)[..., :10]), (0, WIDTH))


def by_channels(model: Reader, x: Tensor, context: Tensor) -> Tensor:
    maps = model.channels(x.transpose(1, 2))
    return F.pad(F.cosine_similarity(maps, maps.flip(2)), (0, WIDTH))


@pytest.mark.parametrize(
    "work",
    [
        alike(F.normalize),
        alike(lambda each: each / each.norm(dim=1, keepdim=True).clamp_min(1e-6)),
        alike(lambda each: each / (torch.linalg.vector_norm(each, dim=1, keepdim=True) + 1e-8)),
        by_default,
        pairs(1),
        towers(lambda each: F.normalize(each, dim=0)),
        towers(lambda each: each / each.norm(dim=0)),
    ],
)
def test_unit_length_along_items_or_samples_is_told(work: Work) -> None:
    [found] = said("WIR028", work)
    assert found.site == "model"
    assert found.source is not None


@pytest.mark.parametrize(
    "work",
    [
        alike(lambda each: F.normalize(each, dim=-1)),
        alike(lambda each: each / each.norm(dim=-1, keepdim=True)),
        towers(F.normalize),
        towers(lambda each: each / each.norm(dim=1, keepdim=True)),
        *(gram, matched, covariance, series, by_channels, pairs(3), unlike, prototypes),
    ],
)
def test_unit_length_along_features_is_silent(work: Work) -> None:
    assert said("WIR028", work) == []
