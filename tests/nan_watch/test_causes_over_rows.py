"""The same of causes that lie in a row or a batch: masks, means, spreads, labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.nn import functional as F

from probes.finding import Finding

CauseOf = Callable[..., Finding | None]
INF = float("inf")

Y = torch.tensor([1, 2])
SCORES = torch.tensor([[0.5, -1.0, 0.2], [0.1, 0.3, -0.4]])
ROW = torch.tensor([[True, True, True], [False, True, False]])  # masks a row whole
ENTRY = torch.tensor([True, False, False])
NONE = torch.zeros(3, dtype=torch.bool)
TWO = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
ZERO = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
ZERO_ONE = torch.tensor([0.0, 2.0])
NEGATIVE = torch.tensor([-1.0, 0.5])
CONSTANT = torch.tensor([[1.0, 1.0], [1.0, 3.0]])
CELLS = torch.tensor([1.0, 2.0, 3.0])


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def two_stds(x: Tensor) -> Tensor:
    first = x[:1].std(0)
    return (first + x[1:].std(0)).sum()


SICK: dict[str, tuple[str, str, Callable[..., Tensor], Tensor]] = {
    # NAN003: a row masked whole
    "masked row": (
        "NAN003",
        "aten._softmax",
        lambda x: x.masked_fill(ROW, -INF).softmax(-1).sum(),
        SCORES,
    ),
    "first axis": (
        "NAN003",
        "aten._softmax",
        lambda x: x.T.masked_fill(ROW.T, -INF).softmax(0).sum(),
        SCORES,
    ),
    "half": (
        "NAN003",
        "aten._softmax",
        lambda x: x.half().masked_fill(ROW, -INF).softmax(-1).float().sum(),
        SCORES,
    ),
    "bfloat16": (
        "NAN003",
        "aten._softmax",
        lambda x: x.bfloat16().masked_fill(ROW, -INF).softmax(-1).float().sum(),
        SCORES,
    ),
    "added mask": (
        "NAN003",
        "aten._softmax",
        lambda x: (x + torch.zeros(2, 3).masked_fill(ROW, -INF)).softmax(-1).sum(),
        SCORES,
    ),
    "by hand": (
        "NAN003",
        "aten.sub",
        lambda x: masked_by_hand(x, x.masked_fill(ROW, -INF).amax(-1, keepdim=True)),
        SCORES,
    ),
    # NAN004: division by nothing
    "masked mean": (
        "NAN004",
        "aten.div",
        lambda x: (x * torch.zeros(3)).sum() / torch.zeros(3).sum(),
        CELLS,
    ),
    "whole count": ("NAN004", "aten.div", lambda x: (x * torch.zeros(3)).sum() / NONE.sum(), CELLS),
    "number": ("NAN004", "aten.div", lambda x: (x * 0).sum() / NONE.sum().item(), CELLS),
    "mean of none": ("NAN004", "aten.mean", lambda x: x[NONE].mean(), CELLS),
    "mse of none": (
        "NAN004",
        "aten.mse_loss",
        lambda x: F.mse_loss(x[NONE], torch.zeros(0)),
        CELLS,
    ),
    "bce of none": (
        "NAN004",
        "aten.binary_cross_entropy_with_logits",
        lambda x: F.binary_cross_entropy_with_logits(x[NONE], torch.zeros(0)),
        CELLS,
    ),
    "all ignored": (
        "NAN004",
        "aten.nll_loss_forward",
        lambda x: F.cross_entropy(x, torch.tensor([-100, -100])),
        SCORES,
    ),
    "image ignored": (
        "NAN004",
        "aten.nll_loss2d_forward",
        lambda x: F.cross_entropy(x.view(1, 3, 1, 2), torch.full((1, 1, 2), 255), ignore_index=255),
        SCORES,
    ),
    "weights 0": (
        "NAN004",
        "aten.nll_loss_forward",
        lambda x: F.cross_entropy(x, Y, weight=torch.tensor([1.0, 0.0, 0.0])),
        SCORES,
    ),
    "1 / x": ("NAN004", "aten.reciprocal", lambda x: (1 / x.relu()).sum(), NEGATIVE),
    "div in place": ("NAN004", "aten.div_", lambda x: (x * 1).div_(x.relu()).sum(), ZERO_ONE),
    "temperature": (
        "NAN004",
        "aten.div",
        lambda x: F.cross_entropy(x / x[0, 1].clamp(min=0), Y),
        SCORES,
    ),
    # NAN011: logsumexp of nothing
    "logsumexp": (
        "NAN011",
        "aten.logsumexp",
        lambda x: x.masked_fill(ROW, -INF).logsumexp(-1).sum(),
        SCORES,
    ),
    "logsumexp within": (
        "NAN011",
        "aten.logsumexp",
        lambda x: (x.masked_fill(ROW, -INF).logsumexp(-1) @ torch.tensor([[0.0], [1.0]])).sum(),
        SCORES,
    ),
    # NAN012: the variance of one
    "std": ("NAN012", "aten.std", lambda x: x[:1].std(0).sum(), TWO),
    "std of all": ("NAN012", "aten.std", lambda x: x[0, :1].std(), TWO),
    "var": ("NAN012", "aten.var", lambda x: x[:1].var(0).sum(), TWO),
    "var_mean": ("NAN012", "aten.var_mean", lambda x: torch.var_mean(x[:1], 0)[0].sum(), TWO),
    "correction": ("NAN012", "aten.var", lambda x: torch.var(x + ZERO, 0, correction=2).sum(), TWO),
    "two stds": ("NAN012", "aten.std", two_stds, TWO),
    # NAN013: something constant
    "std below": (
        "NAN013",
        "aten.div",
        lambda x: (centred(x) / x.std(-1, keepdim=True)).sum(),
        CONSTANT,
    ),
    "biased std below": (
        "NAN013",
        "aten.div",
        lambda x: (centred(x) / x.std(-1, unbiased=False, keepdim=True)).sum(),
        CONSTANT,
    ),
    "root of a variance": (
        "NAN013",
        "aten.div",
        lambda x: (centred(x) / x.var(-1, keepdim=True).sqrt()).sum(),
        CONSTANT,
    ),
    "rsqrt of a variance": (
        "NAN013",
        "aten.rsqrt",
        lambda x: (centred(x) * x.var(-1, keepdim=True).rsqrt()).sum(),
        CONSTANT,
    ),
    "norm below": ("NAN013", "aten.div", lambda x: (x / x.norm(dim=-1, keepdim=True)).sum(), ZERO),
    "F.normalize": ("NAN013", "aten.div", lambda x: F.normalize(x, dim=-1, eps=0).sum(), ZERO),
    "cosine": ("NAN013", "aten.div", lambda x: F.cosine_similarity(x[0], x[1], dim=0, eps=0), ZERO),
    "range below": (
        "NAN013",
        "aten.div",
        lambda x: (
            (x - x.amin(-1, keepdim=True)) / (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True))
        ).sum(),
        CONSTANT,
    ),
    "layer norm": (
        "NAN013",
        "aten.native_layer_norm",
        lambda x: F.layer_norm(x, (2,), eps=0.0).sum(),
        CONSTANT,
    ),
    "group norm": (
        "NAN013",
        "aten.native_group_norm",
        lambda x: F.group_norm(x, 1, eps=0.0).sum(),
        CONSTANT,
    ),
    # NAN024: zero times infinity
    "mask times -inf": (
        "NAN024",
        "aten.mul",
        lambda x: (x + (1 - ROW[1].float()) * -INF).softmax(-1).sum(),
        SCORES,
    ),
    "inf - inf": (
        "NAN024",
        "aten.sub",
        lambda x: (x.masked_fill(ROW, -INF) - x.masked_fill(ROW, -INF)).sum(),
        SCORES,
    ),
    "masked product": (
        "NAN024",
        "aten.mul",
        lambda x: (x.masked_fill(ROW, -INF) * (~ROW).float()).sum(),
        SCORES,
    ),
    "one-hot product": (
        "NAN024",
        "aten.mul",
        lambda x: (F.one_hot(Y, 3) * x.masked_fill(ENTRY, -INF).log_softmax(-1)).sum(),
        SCORES,
    ),
    "matmul with 0": (
        "NAN024",
        "aten.mm",
        lambda x: (x.masked_fill(ROW, -INF) @ torch.zeros(3, 2)).sum(),
        SCORES,
    ),
    "lerp": (
        "NAN024",
        "aten.lerp",
        lambda x: torch.lerp(x, torch.full_like(x, -INF), torch.zeros(3)).sum(),
        SCORES,
    ),
    # NAN026: a hidden entry is picked
    "label": (
        "NAN026",
        "aten.nll_loss_forward",
        lambda x: F.cross_entropy(x.masked_fill(ENTRY, -INF), torch.tensor([0, 1])),
        SCORES,
    ),
    "gather": (
        "NAN026",
        "aten.gather",
        lambda x: -x.masked_fill(ENTRY, -INF).log_softmax(-1).gather(1, Y[:, None] - 1).mean(),
        SCORES,
    ),
    "index": (
        "NAN026",
        "aten.index",
        lambda x: -x.masked_fill(ENTRY, -INF).log_softmax(-1)[torch.arange(2), Y - 1].mean(),
        SCORES,
    ),
    "Categorical": (
        "NAN026",
        "aten.gather",
        lambda x: (
            -Categorical(logits=x.masked_fill(ENTRY, -INF), validate_args=False)
            .log_prob(Y - 1)
            .mean()
        ),
        SCORES,
    ),
    "smoothing": (
        "NAN026",
        "aten.sum",
        lambda x: F.cross_entropy(x.masked_fill(ENTRY, -INF), Y, label_smoothing=0.1),
        SCORES,
    ),
}


def masked_by_hand(x: Tensor, largest: Tensor) -> Tensor:
    return (x.masked_fill(ROW, -INF) - largest).exp().sum()


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("name", SICK)
def test_a_cause_is_named_and_its_patch_cures(name: str, cause_of: CauseOf) -> None:
    code, op, function, given = SICK[name]
    found = cause_of(function, given)
    assert found is not None
    assert (found.code, found.op, found.confirmed) == (code, op, True)
    assert (found.source or "").startswith(str(Path(__file__)))
