"""A focal weight of a mean is one for all samples; other factors of a loss's mean are healthy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict

Of = Callable[["Net", Tensor, Tensor], Tensor]
ON = torch.eye(3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
        self.spread = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x)
        return logits


class Focal(nn.Module):
    """As it is often copied. reduction: of the cross entropy that it is made of."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.alpha, self.gamma = torch.tensor([0.5, 1.0, 2.0]), 2.0
        self.entropy = nn.CrossEntropyLoss(reduction=reduction)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        log_right = -self.entropy(scores, labels)
        weight = self.alpha[labels] * (1 - log_right.exp()).pow(self.gamma)
        return (-weight * log_right).mean()


def focal(wrong: Tensor) -> Tensor:
    return 0.25 * (1 - torch.exp(-wrong)) ** 2 * wrong


def binary(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return focal(F.binary_cross_entropy(net(x).sigmoid().view(-1), ON[y].view(-1)))


def by_hand(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return focal(-(net(x).log_softmax(1) * ON[y]).sum(1).mean())


def in_turn(net: Net, x: Tensor, y: Tensor) -> Tensor:
    scores = net(x).log_softmax(1) * ON[y]
    return torch.stack([focal(-row.sum()) for row in scores]).mean()


def of_labels(net: Net, x: Tensor, y: Tensor) -> Tensor:
    pairs = zip(net(x), ON[y], strict=True)
    losses = [focal(F.binary_cross_entropy_with_logits(one, two)) for one, two in pairs]
    return torch.stack(losses).mean()


def uncertain(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return torch.exp(-net.spread) * F.cross_entropy(net(x), y) + net.spread


def flooded(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return (F.cross_entropy(net(x), y) - 0.1).abs() + 0.1


def perplexed(net: Net, x: Tensor, y: Tensor) -> Tensor:
    wrong = F.cross_entropy(net(x), y)
    assert float(wrong.exp()) > float(1 - torch.exp(-wrong))
    return wrong + 0.0 * wrong.exp()


def held(net: Net, x: Tensor, y: Tensor) -> Tensor:
    wrong = F.cross_entropy(net(x), y)
    return (1 - torch.exp(-wrong.detach())) * wrong


def poly(net: Net, x: Tensor, y: Tensor) -> Tensor:
    wrong = F.cross_entropy(net(x), y, reduction="none")
    return (wrong + 1 - torch.exp(-wrong)).mean()


def geometric(net: Net, x: Tensor, y: Tensor) -> Tensor:
    one, two = F.cross_entropy(net(x), y), F.cross_entropy(net(2 * x), y)
    return (one.log() + two.log()).exp()


def of_another(net: Net, x: Tensor, y: Tensor) -> Tensor:
    one, two = F.cross_entropy(net(x), y), F.cross_entropy(net(2 * x), y)
    return one + (1 - torch.exp(-one)) * two


def judged(of: Of) -> list[Finding]:
    torch.manual_seed(0)
    x, y = torch.randn(24, 8), torch.arange(24) % 3
    subject = Subject(
        Net(),
        [{"x": x, "y": y}],
        lambda model, batch: of(model, batch["x"], batch["y"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    found = check(subject, chosen(only=["WIR059"])).findings
    return [each for each in found if each.verdict.rank > Verdict.NOTE.rank]


@pytest.mark.parametrize(
    "of",
    [
        lambda net, x, y: Focal("mean")(net(x), y),
        lambda net, x, y: Focal("sum")(net(x), y),
        lambda net, x, y: focal(F.cross_entropy(net(x), y, reduction="none").mean()),
        binary,
        by_hand,
    ],
)
def test_a_focal_weight_of_a_mean_is_told(of: Of) -> None:
    (only,) = judged(of)
    assert "the focal weight is one for the whole batch" in only.message
    assert only.source is not None


@pytest.mark.parametrize(
    "of",
    [
        lambda net, x, y: Focal("none")(net(x), y),
        lambda net, x, y: focal(F.cross_entropy(net(x[:1]), y[:1])),
        *(in_turn, of_labels, uncertain, flooded, perplexed, held, poly, geometric, of_another),
    ],
)
def test_of_each_sample_or_of_no_focal_loss_nothing_is_told(of: Of) -> None:
    assert judged(of) == []
