"""The call that gives nothing but zeros to what is to learn is named, and not the weights alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.curves import Curves
from overfit.emptied import emptied
from overfit.look import Look
from overfit.rules.signal_cut import SignalCut
from overfit.trials import Trials
from probes import Finding, Subject, Verdict

Batch = tuple[Tensor, Tensor]
BATCHES = [(torch.full((4, 6), 0.1 * i), torch.ones(4)) for i in (1, 2)]


class Code(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(6, 8), nn.Linear(8, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        code = self.between(self.read(x)).transpose(0, 1).transpose(0, 1)
        return self.head(code).squeeze(-1)  # type: ignore[no-any-return]


def subject(between: Callable[[Tensor], Tensor]) -> Subject:
    torch.manual_seed(0)
    return Subject(
        Code(between),
        BATCHES,
        lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )


@pytest.mark.parametrize(
    ("op", "between"),
    [
        ("round", lambda each: torch.round(0.1 * each)),
        ("relu", lambda each: torch.relu(each - 9.0)),
        ("mul", lambda each: each * torch.zeros(8)),
    ],
)
def test_what_gives_zeros_alone_is_named(op: str, between: Callable[[Tensor], Tensor]) -> None:
    found = emptied(subject(between), BATCHES)
    assert found is not None
    assert (found.op, found.site, found.parameters) == (op, None, ("head.weight", "head.bias"))
    assert (found.source or "").startswith("tests/overfit/test_emptied.py:")
    assert found.silent
    told = Trials(emptied=found)
    assert Look.from_json(Look(trials=told).as_json()).trials == told


@pytest.mark.parametrize(
    "between",
    [
        lambda each: torch.round(9.0 * each),
        lambda each: torch.relu(each),
        lambda each: each + each * 0.0,  # what is added to something is not all that is read
    ],
)
def test_what_gives_other_numbers_is_not(between: Callable[[Tensor], Tensor]) -> None:
    assert emptied(subject(between), BATCHES) is None


def test_zeros_of_one_batch_alone_are_none() -> None:
    own, small = subject(lambda each: each), BATCHES[0][0]
    own.model.between = lambda each: each * float(not torch.equal(own.model.seen, small))
    own.model.register_forward_pre_hook(lambda model, args: setattr(model, "seen", args[0]))
    assert emptied(own, BATCHES[:1]) is not None
    assert emptied(own, BATCHES) is None


def test_the_cut_stands_at_that_call() -> None:
    calm = Curves("overfit-5-seed0", 5, 0, 400, "samples", (0, 1), (2.0, 1.9), ended="steps")
    zero = Finding("GRD003", "zero", Verdict.WARN, "it is zero.", "Look.", site="head.weight")
    found = emptied(subject(lambda each: torch.round(0.1 * each)), BATCHES)
    look = Look(trials=Trials(emptied=found))
    (one,) = SignalCut().judge(replace(calm, look=look, watched=(zero,)))
    assert (one.op, one.site) == ("round", "model")
    assert one.source is not None
    assert "gives nothing but zeros for any sample and hands no gradient back; it" in one.message
    for other in (replace(zero, site="read.weight"), replace(zero, code="GRD007")):
        (one,) = SignalCut().judge(replace(calm, look=look, watched=(other,)))
        assert one.site == other.site
