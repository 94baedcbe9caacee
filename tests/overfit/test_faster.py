"""What is too slow by its rate is not laid to weights through which the input fades."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.curves import Curves
from overfit.drive import Drive
from overfit.faster import Faster, faster
from overfit.look import Look, kept_start
from overfit.outcome import _with_fading
from overfit.rules.too_slow import TooSlow
from overfit.trials import Trials
from probes import Subject
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything
from probes.stepping.fading import Fading

Batch = dict[str, Tensor]
FADING = Fading("first", 4, 5e-4, 0.15, 0.02, 0.13)
SLOW = Finding("FIT009", "too-slow", Verdict.FAIL, "it is slow.", "Wait.", site="<optimizer>")
LOSSES = tuple(2.0 - 0.002 * i for i in range(400))


def course(reading: float = 0.002, found: Faster | None = None) -> Curves:
    look = Look(reading=reading, fading=FADING, moved=0.09, trials=Trials(faster=found))
    drive = Drive(400, 400, rate=5e-5, last=4e-5, usual=2e-5)
    name, steps = "overfit-5-seed0", tuple(range(400))
    return Curves(name, 5, 0, 400, "samples", steps, LOSSES, ended="steps", look=look, drive=drive)


def test_a_larger_rate_that_learns_from_the_same_weights_is_told_in_place_of_them() -> None:
    told = _with_fading(SLOW, course(found=Faster(100, 10.0, 0.5)))
    assert told.site == "<optimizer>"
    assert "10 times the rate, from the start and without a schedule, comes to 0.5" in told.message
    assert told.fix == SLOW.fix
    for found in (Faster(100, 10.0, 1.15), Faster(100, 10.0, float("nan")), None):
        assert _with_fading(SLOW, course(found=found)).site == "first"
    other = replace(SLOW, code="FIT002")
    assert _with_fading(other, course(found=Faster(100, 10.0, 0.5))) == other


def test_an_input_that_counts_in_the_end_has_come_through() -> None:
    for code in ("FIT002", "FIT009"):
        one = replace(SLOW, code=code)
        assert _with_fading(one, course(reading=0.5)) == one


def test_the_rate_and_what_the_schedule_left_of_it_stand_beside_how_far_the_weights_went() -> None:
    (told,) = TooSlow().judge(course())
    assert "at a learning rate of 5e-05, of which the schedule left 0.4 in the m" in told.message
    assert "the weights went 0.09 of their size" in told.message
    assert "and a warm-up that ends within these steps" in told.fix
    even = replace(course(), drive=Drive(400, 400, rate=5e-5, last=5e-5, usual=5e-5))
    (plain,) = TooSlow().judge(even)
    assert "at a learning rate of 5e-05 the weights went" in plain.message
    assert "warm-up" not in plain.fix


def subject(std: float, rate: float) -> Subject:
    seed_everything(0)
    layers = [nn.Linear(6, 32), *[nn.Linear(32, 32) for _ in range(4)], nn.Linear(32, 3)]
    for each in layers:
        nn.init.normal_(each.weight, std=std)
        nn.init.zeros_(each.bias)
    model = nn.Sequential(*[step for each in layers for step in (each, nn.Tanh())][:-1])
    x, y = torch.randn(6, 6), torch.arange(6) % 3
    return Subject(
        model,
        [{"x": x, "y": y}],
        lambda m, b: F.cross_entropy(m(b["x"]), b["y"]),
        lambda m: torch.optim.SGD(m.parameters(), lr=rate, momentum=0.9),
    )


@pytest.mark.parametrize(("std", "learns"), [(0.18, True), (0.02, False)])
def test_ten_times_the_rate_is_tried_from_the_start(std: float, learns: bool) -> None:
    one = subject(std, 0.005)
    began = kept_start(one.model)
    with torch.no_grad():
        for each in one.model.parameters():
            each.add_(1.0)
    ended = kept_start(one.model)
    found = faster(one, list(one.batches), began)
    assert found is not None
    assert (found.loss < 0.9) is learns
    assert all(torch.equal(ended[name], v) for name, v in one.model.state_dict().items())
    by_hand = replace(one, train_step=lambda m, b, o: one.loss(m, b))
    assert faster(by_hand, list(one.batches), began) is None
