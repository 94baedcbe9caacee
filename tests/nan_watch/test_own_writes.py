"""A step that writes parameters itself is replayed from what they were before it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from nan_watch.own_writes import OwnWrites


class Flips(nn.Module):
    """Its own sign changes with every forward pass; a replay from behind one would be healthy."""

    def __init__(self) -> None:
        super().__init__()
        self.sign = nn.Parameter(torch.tensor(-1.0), requires_grad=False)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.sign.neg_()
        return self.head((x * self.sign).log())


def train(model: nn.Module, xs: list[Tensor]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    with NanWatch(model, optimizer) as watch:
        for x in xs:
            watch.step(lambda x=x: step(x), batch={"x": x})


@pytest.mark.parametrize("first", [0, 3])
def test_the_replay_starts_before_what_the_step_writes(first: int) -> None:
    xs = [torch.full((3, 4), 0.5 if step % 2 == 0 else -0.5) for step in range(6)]
    xs[first] = -xs[first]
    with pytest.raises(PoisonedStep) as caught:
        train(Flips(), xs)
    finding = caught.value.finding
    assert (finding.op, finding.step, finding.site) == ("aten.log", first, "model")


def test_parameters_are_kept_only_where_a_step_writes_them_itself() -> None:
    model = nn.Linear(2, 2)
    writes = OwnWrites(model.parameters)
    assert writes.expected
    for changes in (True, False, True):
        writes.begin()
        if changes:
            torch.nn.init.zeros_(model.weight)
        writes.end()
        assert writes.expected is changes
