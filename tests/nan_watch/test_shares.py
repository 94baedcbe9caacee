"""Steps past the first: every site is summed, and in one step of seven its extremes are taken."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from nan_watch.case.symptom import Reading, readings_of
from nan_watch.flags import Flags, Sightings, read
from nan_watch.rules.steady_growth import SteadyGrowth
from nan_watch.sampled.sampling import SHARES, WHOLE
from probes.bus import Bus, Kind, Site

LATE = WHOLE + 3


class Planted(nn.Module):
    """Gives what it is given, but for one number in the steps from `start` on."""

    def __init__(self, value: float, start: int) -> None:
        super().__init__()
        self.value, self.start, self.calls = value, start, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= self.start:
            return x
        mark = torch.zeros_like(x)
        mark[0, 0] = self.value
        return x + mark


def net(*middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), *middle, nn.Linear(4, 1))


def train(model: nn.Module, steps: int, **how: Any) -> NanWatch:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    torch.manual_seed(1)
    with NanWatch(model, optimizer, **how) as watch:
        for _ in range(steps):
            optimizer.zero_grad()
            watch.backward(model(torch.randn(5, 3)).square().mean())
            optimizer.step()
    return watch


def at(step: int) -> Flags:
    """Flags that have gone through so many steps."""
    flags = Flags()
    for _ in range(step):
        flags.see(0, torch.ones(2))
        flags.take(read([flags.waiting])[0])
    return flags


def taken(flags: Flags, *tensors: Tensor) -> Sightings:
    for number, tensor in enumerate(tensors):
        flags.see(number, tensor)
    return flags.take(read([flags.waiting])[0])


def test_every_site_is_measured_in_the_first_steps_and_then_in_one_of_seven() -> None:
    outputs = train(net(nn.ReLU()), WHOLE + 3 * SHARES).run.matrix("output", "abs_max")
    assert outputs.seen[:WHOLE].all()
    later = outputs.seen[WHOLE:]
    assert later.sum(axis=0).tolist() == [3] * len(outputs.sites)
    assert np.isfinite(outputs.values[WHOLE:][later]).all()


def test_what_is_measured_later_is_the_largest_number_of_that_step() -> None:
    model, seen = net(), []
    model[0].register_forward_hook(lambda *given: seen.append(given[2].detach().abs().max()))
    outputs = train(model, WHOLE + 2 * SHARES).run.matrix("output", "abs_max")
    there = outputs.seen[:, 0]
    assert there.sum() == WHOLE + 2
    assert np.array_equal(outputs.values[there, 0], np.array(seen, np.float32)[there])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_recorded_in_every_step(value: float) -> None:
    flags, wide = at(LATE), torch.ones(4, 5)
    wide[1, 2] = value
    for _ in range(SHARES):
        largest = taken(flags, torch.ones(3), wide).abs_max
        assert np.array_equal(largest[1:], [abs(value)], equal_nan=True)


def test_a_sum_says_that_all_is_finite_and_no_size() -> None:
    flags = at(LATE)
    numbers = [taken(flags, torch.full((2,), 3.0)) for _ in range(SHARES)]
    assert [each.abs_max.tolist() for each in numbers].count([3.0]) == 1
    assert [each.abs_max.tolist() for each in numbers].count([-1.0]) == SHARES - 1
    sites = [Site(Kind.OUTPUT, "a")]
    readings = [readings_of(each, sites)[0][0] for each in numbers]
    assert all(each.finite for each in readings)
    assert [each.abs_max for each in readings].count(None) == SHARES - 1


def test_words_say_no_more_than_a_sum_tells() -> None:
    assert Reading("a", math.nan, math.nan).holds == "NaN"
    assert Reading("a", math.nan, math.nan, summed=True).holds == "NaN, or inf and -inf"
    assert Reading("a", -math.inf, -math.inf, summed=True).holds == "-inf by its sum"


def test_half_precision_whose_sum_would_overflow_is_measured_in_every_step() -> None:
    flags = Flags()
    for _ in range(LATE):
        sightings = taken(flags, torch.full((4,), 6e4, dtype=torch.float16))
        assert sightings.abs_max.tolist() == [float(torch.tensor(6e4, dtype=torch.float16))]


def test_an_empty_output_is_not_seen_in_any_step() -> None:
    flags = at(LATE)
    for _ in range(SHARES):
        assert taken(flags, torch.ones(2), torch.ones(0)).numbers.tolist() == [0]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_late_poison_is_found_where_it_stands_beside_a_healthy_mask(value: float) -> None:
    mask, poison = Planted(-math.inf, 0), Planted(value, LATE)
    model = net(mask, nn.Softmax(-1), poison)
    with pytest.raises(PoisonedStep) as stopped:
        train(model, LATE + 1, tier="sites")
    assert stopped.value.finding.step == LATE
    assert stopped.value.finding.site == "3"


def test_the_past_of_a_site_is_of_steps_in_which_it_was_measured() -> None:
    """By it a first `-inf` is told from a mask's: it would be none where it were empty."""
    watch = train(net(nn.Tanh()), 2 * WHOLE)
    past = watch._readings.of("output", "abs_max", "1")
    steps = [step for step, _ in past]
    assert len(past) == 9
    assert set(np.diff(steps)) == {SHARES}
    assert steps[-1] >= 2 * WHOLE - SHARES


def test_growth_is_seen_in_the_thinner_stream() -> None:
    class Growing(nn.Module):
        size = 1.0

        def forward(self, x: Tensor) -> Tensor:
            self.size *= 1.5
            return x * self.size

    watch = train(net(Growing(), nn.LayerNorm(4)), 100)
    found = list(SteadyGrowth().judge(watch.run))
    assert [each.site for each in found] == ["1"]


def test_not_one_bit_differs_after_many_steps() -> None:
    watched, bare = net(nn.Tanh()), net(nn.Tanh())
    train(watched, WHOLE + 2 * SHARES)
    optimizer = torch.optim.SGD(bare.parameters(), lr=1e-3)
    torch.manual_seed(1)
    for _ in range(WHOLE + 2 * SHARES):
        optimizer.zero_grad()
        bare(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
    pairs = zip(watched.parameters(), bare.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_later_steps_hooks_run_on_the_meta_device() -> None:
    """There every read of a number by the host raises."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    flags = Flags()
    for _ in range(WHOLE + SHARES):
        with Bus(model, [flags]):
            model(torch.zeros(2, 3, device="meta")).sum().backward()
        flags.take(np.zeros(sum(each.numel() for each in flags.waiting)))
    with Bus(model, [flags]):
        model(torch.zeros(2, 3, device="meta")).sum().backward()
    assert flags._summed.count(True) > len(flags._summed) // 2


def test_one_parameter_a_step_has_its_update_measured_where_two_had() -> None:
    updates = train(net(), WHOLE + SHARES).run.matrix("update", "ratio").seen.sum(axis=1)
    assert updates.tolist() == [2] * WHOLE + [1] * SHARES
