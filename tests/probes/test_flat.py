"""Gradients of zeros, and which modules they are of."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject, Verdict
from probes.checking import check, chosen
from probes.seeding import seed_everything


class Adapted(nn.Module):
    """A frozen layer, and two matrices beside it of which one or both begin with zeros."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.base = nn.Linear(6, 6).requires_grad_(False)
        self.down = nn.Parameter(torch.zeros(2, 6) if both else torch.randn(2, 6))
        self.up = nn.Parameter(torch.zeros(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + x @ self.down.T @ self.up.T
        return out


@pytest.mark.parametrize("both", [True, False])
def test_all_modules_are_named_whose_weights_hold_each_other_at_zero(both: bool) -> None:
    seed_everything(0)
    model = nn.Sequential(Adapted(both), nn.Tanh(), Adapted(both), nn.Linear(6, 1))
    batch = {"x": torch.randn(9, 6), "y": torch.randn(9, 1)}
    subject = Subject(
        model,
        [batch],
        lambda model, b: F.mse_loss(model(b["x"]), b["y"]),
        lambda model: torch.optim.Adam(p for p in model.parameters() if p.requires_grad),
    )
    found = check(subject, chosen(["WIR018"])).findings
    assert len(found) == both
    for one in found:
        assert one.site == "2"
        assert "`2.up` and `2.down` begin as zeros" in one.message
        assert "so it is with `0.up` and 1 more" in one.message
        assert one.evidence[0].value == 4


class Factors(nn.Module):
    """Two tables of which one or both begin with zeros, multiplied, and a constant beside them."""

    def __init__(self, both: bool, constant: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Embedding(5, 4), nn.Embedding(5, 4)
        nn.init.zeros_(self.one.weight)
        if both:
            nn.init.zeros_(self.two.weight)
        self.constant = nn.Parameter(torch.zeros(1), requires_grad=constant)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = (self.one(ids[:, 0]) * self.two(ids[:, 1])).sum(-1) + self.constant
        return out


@pytest.mark.parametrize(
    ("both", "constant", "verdict"),
    [(True, False, Verdict.FAIL), (True, True, Verdict.WARN), (False, False, None)],
)
def test_two_factors_of_zeros_are_told_as_a_product(
    both: bool, constant: bool, verdict: Verdict | None
) -> None:
    seed_everything(0)
    batch = {"ids": torch.randint(0, 5, (12, 2)), "y": torch.randn(12)}
    subject = Subject(
        Factors(both, constant),
        [batch],
        lambda model, b: F.mse_loss(model(b["ids"]), b["y"]),
        lambda model: torch.optim.Adam(p for p in model.parameters() if p.requires_grad),
    )
    before = [each.detach().clone() for each in subject.model.parameters()]
    found = check(subject, chosen(["WIR018"])).findings
    assert [each.verdict for each in found] == ([verdict] if verdict else [])
    for each in found:
        assert "`two.weight` and `one.weight` begin as zeros, both of them" in each.message
        assert ("nothing else learns" in each.message) == (not constant)
    after = subject.model.parameters()
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
