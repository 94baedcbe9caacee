"""Targets that go on where an episode is over, by a flag that nobody reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


class Agent(nn.Module):
    """The worth of every action, and a copy that stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.still = (
            nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2)) for _ in range(2)
        )
        self.still.requires_grad_(False)

    def forward(self, states: Tensor) -> Tensor:
        worth: Tensor = self.online(states)
        return worth


def taken(model: nn.Module, b: Batch) -> Tensor:
    worth: Tensor = model(b["obs"]).gather(1, b["action"][:, None])[:, 0]
    return worth


def later(model: nn.Module, b: Batch) -> Tensor:
    worth: Tensor = model.get_submodule("still")(b["next_obs"]).amax(1)
    return worth


def plain(model: nn.Module, b: Batch) -> Tensor:
    return F.mse_loss(taken(model, b), b["reward"] + 0.9 * later(model, b))


def detached(model: nn.Module, b: Batch) -> Tensor:
    target = model(b["next_obs"]).amax(1).mul(0.9).add(b["reward"]).detach()
    error: Tensor = nn.SmoothL1Loss()(taken(model, b), target)
    return error


def with_alpha(model: nn.Module, b: Batch) -> Tensor:
    goal = torch.add(b["reward"], later(model, b), alpha=0.9)
    return F.huber_loss(taken(model, b), goal)


def written_out(model: nn.Module, b: Batch) -> Tensor:
    error = b["reward"] + torch.tensor(0.9) * later(model, b) - taken(model, b)
    return error.square().mean()


def normed(model: nn.Module, b: Batch) -> Tensor:
    reward = (b["reward"] - b["reward"].mean()) / b["reward"].std()
    return F.mse_loss(taken(model, b), reward + 0.9 * later(model, b))


def multiplied(model: nn.Module, b: Batch) -> Tensor:
    return F.mse_loss(taken(model, b), b["reward"] + 0.9 * (1 - b["done"]) * later(model, b))


def chosen_where(model: nn.Module, b: Batch) -> Tensor:
    worth = torch.where(b["done"] > 0, torch.zeros(()), later(model, b))
    return F.mse_loss(taken(model, b), b["reward"] + 0.9 * worth)


def filled(model: nn.Module, b: Batch) -> Tensor:
    worth = later(model, b).masked_fill(b["done"].bool(), 0.0)
    return F.mse_loss(taken(model, b), b["reward"] + 0.9 * worth)


def written(model: nn.Module, b: Batch) -> Tensor:
    worth = later(model, b).clone()
    worth[b["done"].bool()] = 0.0
    return F.mse_loss(taken(model, b), b["reward"] + 0.9 * worth)


def by_another(model: nn.Module, b: Batch) -> Tensor:
    """The reward of an end says that it is one."""
    goes_on = (b["reward"].abs() < 0.5).float()
    return F.mse_loss(taken(model, b), b["reward"] + 0.9 * goes_on * later(model, b))


def bandit(model: nn.Module, b: Batch) -> Tensor:
    return F.mse_loss(taken(model, b), b["reward"])


def imitated(model: nn.Module, b: Batch) -> Tensor:
    return F.cross_entropy(model(b["obs"]), b["action"])


def distilled(model: nn.Module, b: Batch) -> Tensor:
    """Of the same observation, and of no other."""
    teacher = model.get_submodule("still")(b["obs"]).amax(1)
    return F.mse_loss(taken(model, b), b["reward"] + 0.9 * teacher)


SICK = (plain, detached, with_alpha, written_out, normed)
HEALTHY = (multiplied, chosen_where, filled, written, by_another, bandit, imitated, distilled)


@pytest.mark.parametrize("loss", SICK)
def test_a_target_that_goes_on_through_ends_is_told(loss: Loss) -> None:
    (one,) = found(loss, episodes())
    assert (one.code, one.verdict) == ("LBL013", Verdict.WARN)
    assert "nobody reads `done`" in one.message
    assert "the target goes on from `next_obs`" in one.message
    assert "test_through_the_end.py" in str(one.source)


@pytest.mark.parametrize("loss", HEALTHY)
def test_what_stops_there_or_goes_on_nowhere_is_healthy(loss: Loss) -> None:
    assert not found(loss, episodes())


def test_a_flag_that_says_what_goes_on_is_turned() -> None:
    data = episodes()
    data["not_done"] = 1 - data.pop("done")
    (one,) = found(plain, data)
    assert f"is over in {int((data['not_done'] == 0).sum())} of 192" in one.message


def test_a_step_of_its_own_is_looked_at() -> None:
    (one,) = found(plain, episodes(), own=True)
    assert "nobody reads `done`" in one.message
    assert not found(multiplied, episodes(), own=True)


@pytest.mark.parametrize("kind", ["never", "clock", "stays", "limit"])
def test_ends_that_a_target_goes_on_through_rightly(kind: str) -> None:
    data = episodes()
    n = len(data["done"])
    if kind == "never":
        data["done"] = torch.zeros(n)
    elif kind == "clock":
        data |= wandering(n)
        data["done"] = (torch.arange(n) % 12 == 11).float()
    elif kind == "stays":  # behind an end is a state that leads to itself
        over, own = data["done"] > 0, torch.full((3,), 5.0)
        data["next_obs"][over] = own
        data["obs"][:6], data["next_obs"][:6] = own, own
        data["done"][:6] = 0.0
    else:
        data["truncated"] = data.pop("done")
    assert not found(plain, data)


def episodes(n: int = 192) -> Batch:
    """Walks that end beyond a border, where a first observation of another one comes next."""
    data = wandering(n)
    over = data["next_obs"][:, 0].abs() > 1
    data["reward"] = torch.where(over, data["next_obs"][:, 0].sign(), -0.02 + 0 * data["reward"])
    data["next_obs"][over] = 0.1 * data["next_obs"][over]
    return data | {"done": over.float()}


def wandering(n: int) -> Batch:
    chance = torch.Generator().manual_seed(0)
    obs = torch.rand(n, 3, generator=chance) * 2 - 1
    step = 0.6 * (torch.rand(n, 3, generator=chance) - 0.5)
    return {
        "obs": obs,
        "action": torch.randint(0, 2, (n,), generator=chance),
        "reward": torch.randn(n, generator=chance),
        "next_obs": obs + step,
    }


def found(loss: Loss, data: Batch, own: bool = False) -> tuple[Finding, ...]:
    def train_step(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        return value.detach()

    torch.manual_seed(0)
    subject = Subject(
        Agent(),
        [{key: each[part : part + 24] for key, each in data.items()} for part in range(0, 192, 24)],
        loss,
        lambda model: torch.optim.Adam(model.get_submodule("online").parameters(), lr=0.01),
        predict=lambda model, batch: model(batch["obs"]),
        train_step=train_step if own else None,
    )
    return tuple(check(subject, chosen(["LBL013"])).findings)
