"""What one backward pass teaches a critic of the data and of what is made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Scores = Callable[[Tensor, Tensor], Tensor]


class Pair(nn.Module):
    def __init__(self, squashed: bool) -> None:
        super().__init__()
        self.maker = nn.Linear(4, 6)
        parts = [nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1)]
        self.critic = nn.Sequential(*parts, nn.Sigmoid()) if squashed else nn.Sequential(*parts)


def told(loss: Callable[[nn.Module, Batch], Tensor], squashed: bool = False) -> list[str]:
    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        return value.detach()

    seed_everything(0)
    batch = {"x": torch.randn(12, 6), "z": torch.randn(12, 4), "y": 5 + torch.rand(12, 1)}
    subject = Subject(
        Pair(squashed), [batch], loss, lambda m: SGD(m.parameters(), lr=0.1), train_step=step
    )
    judged = check(subject, chosen(["WIR026"]))
    assert judged.not_judged == ()
    return [f"{one.site} {one.message.split(' both ')[1].split(',')[0]}" for one in judged.findings]


def entropy(real: float, made: float) -> Scores:
    def loss(data: Tensor, fake: Tensor) -> Tensor:
        pairs = ((data, real), (fake, made))
        return sum(
            (F.binary_cross_entropy_with_logits(s, torch.full_like(s, to)) for s, to in pairs),
            torch.zeros(()),
        )

    return loss


@pytest.mark.parametrize(
    ("scores", "way"),
    [
        (lambda data, fake: -(data + fake.mean()).mean(), "up"),
        (lambda data, fake: (data + fake).mean(), "down"),
        (entropy(1.0, 1.0), "up"),
        (lambda data, fake: F.relu(1 - data).mean() + F.relu(1 - fake).mean(), "up"),
        (lambda data, fake: fake.mean() - data.mean(), None),
        (entropy(0.9, 0.0), None),
        (lambda data, fake: F.relu(1 - data).mean() + F.relu(1 + fake).mean(), None),
        (lambda data, fake: F.softplus(-(data - fake.mean())).mean(), None),
        (lambda data, fake: (data.mean() - 1).square() + fake.square().mean(), None),
    ],
)
def test_a_critic_is_to_push_them_apart(scores: Scores, way: str | None) -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        made = model.maker(batch["z"]).detach()  # type: ignore[operator]
        return scores(model.critic(batch["x"]), model.critic(made))  # type: ignore[operator]

    assert told(loss) == ([] if way is None else [f"critic {way}"])


@pytest.mark.parametrize(("label", "way"), [(1.0, "up"), (0.0, None)])
def test_scores_that_are_probabilities_are_put_near_their_ends(
    label: float, way: str | None
) -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            made = model.maker(batch["z"])  # type: ignore[operator]
        pairs = ((model.critic(batch["x"]), 1.0), (model.critic(made), label))  # type: ignore[operator]
        return sum(
            (F.binary_cross_entropy(score, torch.full_like(score, to)) for score, to in pairs),
            torch.zeros(()),
        )

    assert told(loss, squashed=True) == ([] if way is None else [f"critic {way}"])


def test_a_regression_on_data_and_on_what_is_made_is_no_critic() -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        made = model.maker(batch["z"]).detach()  # type: ignore[operator]
        both = (model.critic(each) for each in (batch["x"], made))  # type: ignore[operator]
        return sum((F.l1_loss(each, batch["y"]) for each in both), torch.zeros(()))

    assert told(loss) == []


def test_a_maker_that_learns_from_the_pass_may_want_both_scores_up() -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        made = model.maker(batch["z"])  # type: ignore[operator]
        return -(model.critic(batch["x"]) + model.critic(made)).mean()  # type: ignore[no-any-return, operator]

    assert told(loss) == []
