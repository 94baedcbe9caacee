from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.curves import Curves
from overfit.look import Look, kept_start
from overfit.reach import Reach, reach
from overfit.rules.ceiling_reached import CeilingReached
from overfit.rules.diverged import Diverged
from overfit.settled import Settled, again
from overfit.trials import Trials
from probes import Subject
from probes.loop import Loop

Batch = dict[str, Tensor]
Y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
COURSE = Curves("overfit-5-seed0", 5, 0, 400, "samples", (), (), ended="steps")
REACH = Reach(1.25, 2, 4, "softplus", "0 or more", "train.py:3")


def squares(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch["x"]) - batch["y"]).pow(2).mean()


def subject(model: nn.Module, rate: float = 0.1) -> Subject:
    batch = {"x": torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), "y": Y}
    return Subject(model, [batch], squares, lambda m: torch.optim.SGD(m.parameters(), lr=rate))


def test_what_no_output_can_be_leaves_the_squares_of_its_distance() -> None:
    torch.manual_seed(0)
    sick = subject(nn.Sequential(nn.Linear(3, 1), nn.Softplus()))
    found = reach(sick, list(sick.batches))
    assert found is not None
    assert (found.loss, found.beyond, found.count) == (pytest.approx(1.25), 2, 4)
    by_torch = replace(sick, loss=lambda m, b: F.mse_loss(input=m(b["x"]), target=b["y"]))
    again_found = reach(by_torch, list(sick.batches))
    assert again_found is not None
    assert again_found.loss == pytest.approx(1.25)
    well = subject(nn.Linear(3, 1))
    assert reach(well, list(well.batches)) is None


@pytest.mark.parametrize(("end", "told"), [(1.26, True), (1.6, False), (0.2, False)])
def test_a_loss_that_came_down_to_it_is_at_its_ceiling(end: float, told: bool) -> None:
    losses = (3.0, *[end] * 99)
    look = Look(trials=Trials(reach=REACH if end > 1 else replace(REACH, loss=0.01)))
    course = replace(COURSE, losses=losses, steps=tuple(range(100)), look=look)
    assert CeilingReached().holds(course) is told
    if told:
        (found,) = CeilingReached().judge(course)
        assert (found.site, found.source) == ("<loss>", "train.py:3")
        assert "2 of 4 labels lie beyond what `softplus` gives, 0 or more" in found.message


def test_a_tenth_of_the_rate_is_tried_from_the_start_where_the_loss_rose() -> None:
    torch.manual_seed(0)
    run = subject(nn.Linear(3, 1), rate=2.0)
    began, batches = kept_start(run.model), list(run.batches)
    assert again(run, batches, began) is None  # nothing rose
    loop = Loop(run)
    for _ in range(5):
        loop.step(batches[0], None)
    ended = kept_start(run.model)
    tried = again(run, batches, began)
    assert tried is not None
    assert tried.smaller < 2
    assert not tried.kept < 100
    assert all(torch.equal(ended[k], v) for k, v in run.model.state_dict().items())


def test_divergence_that_a_tenth_of_the_rate_does_not_show_is_a_step_too_large() -> None:
    look = Look(trials=Trials(again=Settled(60, 9.0, 0.01)))
    course = replace(COURSE, losses=(1.0, *[4.0] * 99), steps=tuple(range(100)), look=look)
    (found,) = Diverged().judge(course)
    assert "the step is too large, for 60 steps from the start at a tenth" in found.message
    (other,) = Diverged().judge(replace(course, look=Look()))
    assert "too large" not in other.message
