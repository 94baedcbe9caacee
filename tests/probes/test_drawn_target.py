"""Noise that is asked for is the noise that the model's input was made with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


class Net(nn.Module):
    def __init__(self, zeroed: bool = False) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(7, 16), nn.Linear(16, 6)
        if zeroed:
            nn.init.zeros_(self.two.weight)
            nn.init.zeros_(self.two.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.two(self.one(torch.cat([x, t], 1)).tanh())
        return out


def said(
    loss: Loss,
    model: nn.Module | None = None,
    step: Callable[[nn.Module, Batch, Optimizer], Tensor] | None = None,
) -> list[Finding]:
    seed_everything(0)
    batches = [{"x": torch.randn(16, 6)} for _ in range(2)]
    subject = Subject(
        model or Net(), batches, loss, lambda m: Adam(m.parameters()), train_step=step
    )
    return list(check(subject, chosen(only=["LBL020"])).findings)


def given(batch: Batch, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What is handed to the model: a mixture of sample and noise, and how much of it is noise."""
    x = batch["x"]
    t = 0.1 + 0.8 * torch.rand(len(x), 1)
    return (1 - t) * x + t * (torch.randn_like(x) if noise is None else noise), t


def apart(score: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        noise = torch.randn_like(batch["x"])
        return score(model(*given(batch)), noise)

    return loss


def together(score: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        noise = torch.randn_like(batch["x"])
        return score(model(*given(batch, noise)), noise)

    return loss


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "by name": lambda out, noise: F.l1_loss(target=noise, input=out),
    "squares": lambda out, noise: ((noise - out) ** 2).mean(),
    "weighed": lambda out, noise: (2 * (out - noise)).square().sum(1).mean(),
    "times itself": lambda out, noise: ((out - noise) * (out - noise)).mean(),
    "a score": lambda out, noise: F.smooth_l1_loss(out, -noise / torch.linspace(1, 2, 16)[:, None]),
}


@pytest.mark.parametrize("name", SCORES)
def test_noise_that_the_model_is_not_given(name: str) -> None:
    (one,) = said(apart(SCORES[name]))
    assert one.verdict.value == "warn"
    assert one.message.count("test_drawn_target.py:") == 3


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("zeroed", [False, True])
def test_noise_that_the_model_is_given(name: str, zeroed: bool) -> None:
    assert said(together(SCORES[name]), Net(zeroed)) == []


def test_a_last_layer_of_zeros_and_a_step_of_its_own() -> None:
    loss = apart(F.mse_loss)

    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        return value.detach()

    assert said(loss, Net(zeroed=True))
    assert said(loss, step=step)


def flow(model: nn.Module, batch: Batch) -> Tensor:
    noise = torch.randn_like(batch["x"])
    return F.mse_loss(model(*given(batch, noise)), batch["x"] - noise)


def second_picture(model: nn.Module, batch: Batch) -> Tensor:
    seen, t = given(batch)
    return F.mse_loss(model(seen, t), batch["x"] + torch.randn_like(seen))


def smoothed(model: nn.Module, batch: Batch) -> Tensor:
    out = model(*given(batch))
    return F.mse_loss(out, 0.9 + 0.1 * torch.rand_like(out))


def near_a_prior(model: nn.Module, batch: Batch) -> Tensor:
    """As a sliced distance does: what is sorted is held against draws that are sorted."""
    out = model(*given(batch))
    return F.mse_loss(out.sort(0).values, torch.randn_like(out).sort(0).values)


def pulled(model: nn.Module, batch: Batch) -> Tensor:
    out = model(*given(batch))
    return F.mse_loss(out, batch["x"]) + 0.01 * F.mse_loss(out, torch.randn_like(out))


def drawn_alike(model: nn.Module, batch: Batch) -> Tensor:
    """The same noise is drawn twice from one seed."""
    x, seed = batch["x"], int(torch.randint(1000, ()))
    t = torch.rand(len(x), 1)
    torch.manual_seed(seed)
    seen = (1 - t) * x + t * torch.randn_like(x)
    torch.manual_seed(seed)
    return F.mse_loss(model(seen, t), torch.randn_like(x))


def of_a_network(model: nn.Module, batch: Batch) -> Tensor:
    """As where the action of a target is smoothed by noise."""
    x = batch["x"]
    with torch.no_grad():
        later = x + (0.2 * torch.randn_like(x)).clamp(-0.5, 0.5)
        wanted = model(later, torch.zeros(len(x), 1))
    return F.mse_loss(model(*given(batch)), wanted)


HEALTHY = [flow, second_picture, smoothed, near_a_prior, pulled, drawn_alike, of_a_network]


@pytest.mark.parametrize("loss", HEALTHY)
def test_fair_targets(loss: Loss) -> None:
    assert said(loss) == []
