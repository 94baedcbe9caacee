"""The weight of a part of the loss that bears another name than the head, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.curves import Accuracy, Curves
from overfit.drive import Drive
from overfit.look import Look
from overfit.outcome import outcome
from overfit.terms import norms_of_terms
from probes import Subject

NORMS = {
    "kind": {"body": 1e-4, "kind_head": 1e-4},
    "years": {"body": 1.0, "age_head": 2.0},
    "<loss>": {"body": 2e-4, "kind_head": 1e-4, "age_head": 2e-4},
}
STUCK = Curves(
    name="overfit-5-seed0",
    size=5,
    seed=0,
    budget=400,
    unit="samples",
    steps=tuple(range(100)),
    losses=tuple(1.6 * 0.9**i for i in range(100)),
    heads={
        "kind_right": Accuracy((0, 10), (1.0, 5.0), (5.0, 5.0)),
        "age_near": Accuracy((0, 10), (1.0, 1.0), (5.0, 5.0)),
    },
    ended="steps",
    look=Look(parts=NORMS),
    parts={"kind": (1.5, 1e-3), "years": (1.5, 0.8)},
    drive=Drive(100, 100, rate=0.1, proportional=True),
)


def test_a_stuck_head_says_what_the_part_weighs_that_is_not_learned() -> None:
    lead = outcome(STUCK).findings[0]
    assert (lead.code, lead.site) == ("FIT008", "age_head")
    assert "the part `years`, which is not learned either, weighs 0.0001 in" in lead.message
    assert "it would need 1e+04 times as many as at a weight of one" in lead.message
    assert lead.fix.startswith("Give `years` 1e+04 times its weight in the loss, or `age_head`")


@pytest.mark.parametrize("parts", [{}, {"kind": (1.5, 1e-3), "years": (1.5, 1e-3)}])
def test_a_part_that_is_learned_starves_none(parts: Mapping[str, tuple[float, ...]]) -> None:
    even = {**NORMS, "<loss>": {**NORMS["kind"], "age_head": 2.0}}
    norms = NORMS if parts else even
    lead = outcome(replace(STUCK, parts=parts, look=Look(parts=norms))).findings[0]
    assert lead.code == "FIT008"
    assert "weighs" not in lead.message


def test_an_optimizer_that_divides_by_the_gradient_needs_no_more_steps() -> None:
    drive = Drive(100, 100, rate=0.1)
    lead = outcome(replace(STUCK, parts={}, drive=drive)).findings[0]
    assert "`years`, which is not learned either, weighs 0.0001 in the whole loss, by its" in (
        lead.message
    )
    assert "times as many" not in lead.message


@pytest.mark.parametrize("two", [True, False])
def test_terms_that_nobody_named_are_weighed_by_the_sum(two: bool) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"one": nn.Linear(4, 3), "other": nn.Linear(4, 3)})

    def loss(model: nn.ModuleDict, batch: tuple[Tensor, Tensor]) -> Tensor:
        whole = F.cross_entropy(model["one"](batch[0]), batch[1])
        return whole + 1e-3 * F.cross_entropy(model["other"](batch[0]), batch[1]) if two else whole

    batch = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    own = Subject(model, [batch], loss, lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    found = norms_of_terms(own, batch)
    assert bool(found) == two
    if two:
        one, other, whole = found.values()
        assert (one["other"], other["one"]) == (0.0, 0.0)
        assert whole["one"] == pytest.approx(one["one"])
        assert whole["other"] == pytest.approx(1e-3 * other["other"])
