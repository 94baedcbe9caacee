"""Flags of an end that let the next state count, the one way round and the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checks.past_the_end import BootstrapsPastTheEnd
from probes.experiment import Experiment


class Agent(nn.Module):
    """The worth of a state."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(4, 1)

    def forward(self, states: Tensor) -> Tensor:
        worth: Tensor = self.read(states)[:, 0]
        return worth


def found(flag: str, gate: str, ends: Tensor) -> list[str]:
    chance = torch.Generator().manual_seed(0)
    batch = {
        "states": torch.randn(12, 4, generator=chance),
        "next": torch.randn(12, 4, generator=chance),
        "bonus": torch.randn(12, 4, generator=chance),
        flag: ends,
    }

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        later = model(batch["next"]).detach()
        if gate == "always":
            goal = later
        elif gate == "bonus":  # what is read by nobody but the loss may count at the end alone
            goal = (1 - batch[flag]) * later + batch[flag] * batch["bonus"].sum(1)
        else:
            goal = later * (batch[flag] if gate == "set" else 1 - batch[flag])
        return nn.functional.mse_loss(model(batch["states"]), goal)

    subject = Subject(
        Agent(), [batch], loss, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    )
    return [each.message for each in BootstrapsPastTheEnd().judge(Experiment.of(subject))]


SOME = (torch.arange(12) % 5 == 4).float()


@pytest.mark.parametrize("flag", ["done", "terminated", "step_terminal"])
def test_a_flag_that_was_not_turned_round_is_told(flag: str) -> None:
    (message,) = found(flag, "set", SOME)
    assert f"where `{flag}` is 1, in 2 of 12" in message


@pytest.mark.parametrize("gate", ["unset", "always", "bonus"])
def test_what_counts_where_an_episode_goes_on_is_silence(gate: str) -> None:
    assert found("done", gate, SOME) == []


@pytest.mark.parametrize("flag", ["not_done", "non_terminal", "continues", "mask"])
def test_a_flag_that_says_that_it_goes_on_is_silence(flag: str) -> None:
    assert found(flag, "set", 1 - SOME) == []


def test_flags_that_are_all_the_same_tell_nothing() -> None:
    assert found("done", "set", torch.zeros(12)) == []
