"""Terms that read no label, and what is learned without them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from overfit.curves import Accuracy, Curves
from overfit.look import Look, kept_start
from overfit.outcome import outcome
from overfit.released import Released, released
from overfit.rules.regulariser_holds import RegulariserHolds
from probes import Subject
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
HELD = Released("kl", "a.py:3", 1.0, 1.0, 0.9, 0.88, 0.02)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    code = model[0](batch["x"])
    apart = (model[1](code) - batch["x"]).square().mean()
    return apart + 2.0 * code.abs().sum(-1).mean()  # added


def plain(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch["x"]) - batch["x"]).square().mean()


def size(model: nn.Module, batch: Batch) -> Tensor:
    return model[0](batch["x"]).abs().sum(-1).mean()


def subject() -> Subject:
    seed_everything(0)
    return Subject(
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
        [{"x": torch.randn(6, 4)}],
        loss,
        lambda m: torch.optim.Adam(m.parameters(), lr=0.03),
        parts={"apart": plain, "size": size},
    )


def test_the_others_are_learned_without_the_term_and_all_is_as_it_was() -> None:
    one = subject()
    began = kept_start(one.model)
    for _ in range(300):
        one.model.zero_grad()
        one.loss(one.model, one.batches[0]).backward()
        with torch.no_grad():
            for each in one.model.parameters():
                each -= 0.05 * each.grad
    ended, random = kept_start(one.model), torch.get_rng_state()
    told = released(one, one.batches, began)
    assert told is not None
    assert (told.term, told.weight) == ("size", 2.0)
    assert str(told.source).endswith("test_released.py:26")
    assert told.without < 0.2 * told.kept
    assert all(torch.equal(value, ended[name]) for name, value in one.model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert released(replace(one, loss=plain, parts={}), one.batches, began) is None


def course(told: Released | None) -> Curves:
    return Curves(
        name="overfit-5-seed0",
        size=5,
        seed=0,
        budget=60,
        unit="samples",
        steps=tuple(range(60)),
        losses=(1.2, *[0.95] * 59),
        heads={"near": Accuracy((0, 60), (1.0, 2.0), (5.0, 5.0))},
        ended="steps",
        look=Look(released=told, reading=0.5, moved=1.0),
    )


def test_a_term_that_holds_the_others_leads() -> None:
    lead = outcome(course(HELD)).findings[0]
    assert (lead.code, lead.site, lead.source) == ("FIT020", "<loss>", "a.py:3")
    assert "`kl` of weight 1, keeps the others from being learned" in lead.message


@pytest.mark.parametrize(
    "told",
    [
        None,
        replace(HELD, without=0.5),  # they do not go much lower without it
        replace(HELD, kept=0.3),  # they come down with it, too
        replace(HELD, before=0.05, kept=0.04, without=0.001),  # they are learned
    ],
)
def test_a_term_that_does_not_hold_them_is_not_told(told: Released | None) -> None:
    assert not list(RegulariserHolds().judge(course(told)))
