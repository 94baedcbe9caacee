"""An optimizer that looks at several points in a step, of which it gives some up."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from probes.finding import Verdict

EDGE = 2.01


class Fit:
    """A point that is to go to 2; above 2.01 there is a wall, which a search comes back from.

    sick: the step whose loss is the root of what went below zero.
    """

    def __init__(self, search: str | None, sick: int | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(1, 1)
        with torch.no_grad():
            self.model.weight.fill_(0.5)
            self.model.bias.fill_(1.0)
        self.optimizer = torch.optim.LBFGS(
            self.model.parameters(), lr=1.0, max_iter=4, line_search_fn=search
        )
        self.sick = sick
        self.at = 0
        self.odd = 0

    def closure(self) -> Tensor:
        self.optimizer.zero_grad()
        z = self.model(torch.ones(1, 1))
        wall = z.item() > EDGE and self.optimizer.param_groups[0]["line_search_fn"] is not None
        loss = (z * 1e4).exp().mean() if wall else (z - 2).square().mean()
        loss = loss + (self.model(-torch.ones(1, 1)) + 1).pow(4).mean()
        if self.at == self.sick:
            loss = loss + (z - z - 1).sqrt().mean()
        self.odd += not math.isfinite(loss.item())
        loss.backward()
        return loss

    def run(self) -> list[Tensor]:
        for self.at in range(6):
            self.optimizer.step(self.closure)
        return [each.detach().clone() for each in self.model.parameters()]


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
@pytest.mark.parametrize("search", ["strong_wolfe", None])
def test_a_healthy_one_is_let_through_to_the_bit(search: str | None, beside: bool) -> None:
    bare = Fit(search)
    ended = bare.run()
    assert all(each.isfinite().all() for each in ended)
    fit = Fit(search)
    adam = torch.optim.Adam(fit.model.parameters())
    with NanWatch(fit.model, [adam, fit.optimizer] if beside else fit.optimizer) as watch:
        assert all(map(torch.equal, ended, fit.run()))
    assert [each for each in watch.findings if each.verdict is not Verdict.NOTE] == []
    assert fit.odd == bare.odd
    if search:
        assert fit.odd > 0  # points that it tried, where the loss is no number
        assert watch.steps == 6


@pytest.mark.parametrize("search", ["strong_wolfe", None])
@pytest.mark.parametrize("on_poison", ["raise", "skip"])
def test_a_sick_one_is_stopped_before_it_moves(search: str | None, on_poison: Any) -> None:
    fit, before = Fit(search, sick=3), Fit(search)
    for before.at in range(3):
        before.optimizer.step(before.closure)
    with NanWatch(fit.model, fit.optimizer, on_poison=on_poison) as watch:
        if on_poison == "raise":
            with pytest.raises(PoisonedStep, match=r"`aten\.sqrt`"):
                fit.run()
            assert all(map(torch.equal, before.model.parameters(), fit.model.parameters()))
        else:
            assert all(each.isfinite().all() for each in fit.run())
    assert len(watch.findings) == 1
