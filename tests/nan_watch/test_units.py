"""Dead and saturated units are counted on the device, in the steps that are sampled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch
from nan_watch.flags import read
from nan_watch.sampled.sampling import is_sampled
from nan_watch.sampled.units import Units
from probes.bus import Bus
from probes.run import Run


def test_many_steps_are_sampled_at_first_and_one_in_64_later() -> None:
    found = [step for step in range(260) if is_sampled(step)]
    assert found == [0, 1, 2, 4, 8, 16, 32, 64, 128, 192, 256]
    found = [step for step in range(800) if is_sampled(step, 256)]
    assert found == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768]


def shares(run: Run, stat: str, site: str) -> dict[int, float]:
    matrix = run.matrix("unit", stat)
    column = matrix.sites.index(site)
    rows = np.flatnonzero(matrix.seen[:, column])
    return {int(matrix.steps[row]): float(matrix.values[row, column]) for row in rows}


def watched(model: nn.Module, x: Tensor, steps: int, before: Any = None) -> Run:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with NanWatch(model, optimizer) as watch:
        for step in range(steps):
            if before is not None:
                before(step)
            model(x).sum().backward()
            optimizer.step()
    return watch.run


def test_a_unit_is_dead_once_it_was_closed_in_four_sampled_steps_on_end() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
    nn.init.uniform_(model[0].weight, 0.1, 1.0)
    nn.init.zeros_(model[0].bias)

    def die(step: int) -> None:
        if step == 3:
            nn.init.constant_(model[0].bias[:6], -100.0)  # seen at 4, 8, 16 and 32

    found = shares(watched(model, torch.ones(10, 3), 40, die), "dead_share", "1")
    assert found == {0: 0, 1: 0, 2: 0, 4: 0, 8: 0, 16: 0, 32: 0.75}


def test_one_sample_a_step_has_to_be_closed_for_longer() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
    nn.init.constant_(model[0].bias, -100.0)
    assert shares(watched(model, torch.ones(1, 3), 40), "dead_share", "1")[32] == 0.0
    assert shares(watched(model, torch.ones(8, 3), 40), "dead_share", "1")[4] == 1.0


def test_a_gelu_of_zero_is_alive_and_one_far_below_is_dead() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4), nn.SiLU())
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    nn.init.zeros_(model[2].weight)
    nn.init.constant_(model[2].bias, -30.0)
    run = watched(model, torch.ones(16, 3), 10)
    assert shares(run, "dead_share", "1")[8] == 0.0
    assert shares(run, "dead_share", "3")[8] == 1.0


def test_channels_of_a_convolution_and_features_of_tokens_are_the_units() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    nn.init.zeros_(model[0].weight)
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    assert shares(watched(model, torch.ones(2, 3, 5, 5), 5), "dead_share", "1")[4] == 0.25
    tokens = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    nn.init.zeros_(tokens[0].weight)
    with torch.no_grad():
        tokens[0].bias.copy_(torch.tensor([-9.0, 9.0, 9.0, 0.0]))
    assert shares(watched(tokens, torch.ones(2, 5, 3), 5), "saturated_share", "1")[4] == 0.75


def test_a_module_that_is_shared_counts_by_width_and_by_all_its_calls() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            wide = torch.cat([x, -x], 1)
            return (self.act(-x) + self.act(x * 0)).sum() + self.act(wide).sum()

    model = nn.ModuleList([Shared(), nn.Linear(1, 1)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with NanWatch(model, optimizer) as watch:
        for _ in range(5):
            (model[0](torch.ones(8, 4)) + model[1](torch.ones(1, 1))).sum().backward()
            optimizer.step()
    assert shares(watch.run, "dead_share", "0.act")[4] == 1.0  # of the narrow calls
    assert shares(watch.run, "count", "0.act")[4] == 4


@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.GELU(), nn.Tanh(), nn.Hardtanh()])
def test_nothing_is_read_in_a_step_whose_hooks_run_on_the_meta_device(act: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(3, 4), act).to("meta")
    units = Units(model)
    with Bus(model, [units]) as bus:
        units.sites = bus.sites
        for _ in range(2):
            model(torch.ones(2, 3, device="meta")).sum().backward()
    (share,) = units.waiting()
    assert share.is_meta
    assert units.waiting() == []


def test_steps_between_are_not_looked_at() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    units = Units(model)
    with Bus(model, [units]) as bus:
        units.sites = bus.sites
        model(torch.ones(2, 3))
        assert len(units.take(read([units.waiting()])[0], next_step=3)) == 2
        model(torch.ones(2, 3))
        assert units.waiting() == []
