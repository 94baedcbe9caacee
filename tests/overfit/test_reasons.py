"""Which reason leads: that of another size, of the first steps, of a state that is cut off."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.curves import Accuracy, Curves
from overfit.explains import cause_of, is_placed
from overfit.look import Look, Looker, kept_start
from overfit.rules.diverged import Diverged
from overfit.rules.stuck_on_floor import StuckOnFloor
from overfit.story import _explained, _reasons_first
from probes import Finding, Subject, Verdict
from probes.finding import Judgement
from probes.reading.lost import Lost

PLAIN = Finding("FIT002", "not-memorised", Verdict.FAIL, "it is not.", "Look.")


def curves(losses: list[float], right: tuple[float, ...], look: Look | None = None) -> Curves:
    return Curves(
        name="overfit-5-seed0",
        size=5,
        seed=0,
        budget=400,
        unit="samples",
        steps=tuple(range(len(losses))),
        losses=tuple(losses),
        heads={"class": Accuracy(tuple(range(len(right))), right, (5.0,) * len(right))},
        ended="steps",
        look=look,
    )


@pytest.mark.parametrize(
    ("code", "first"), [("FIT007", "FIT007"), ("FIT009", "FIT002"), ("FIT013", "FIT002")]
)
def test_a_reason_leads_a_suite_of_which_nothing_is_known(code: str, first: str) -> None:
    other = Finding(code, "other", Verdict.FAIL, "the signal is lost.", "Mend it.", site="a")
    told = _reasons_first(Judgement((PLAIN, other)))
    assert told.findings[0].code == first


def test_what_is_learned_is_cut_off_leads_to_its_own_place() -> None:
    blind = replace(PLAIN, code="FIT007", site="model", source="b.py:3")
    cut = Finding("STA003", "cut", Verdict.WARN, "detached.", "Take it away.", site="core")
    assert cause_of(blind, [cut]) == cut
    assert is_placed(blind)


def test_what_training_lost_is_lost_at_no_line() -> None:
    calm, lost = [1.0] * 60, Lost("mean", None, "a.py:3")
    look = Look(began_reading=2e-5, reading=1e-7, moved=1.3, size=1.7, noise=0.0, lost=lost)
    (one,) = StuckOnFloor().judge(curves(calm, (1, 2, 2), look))
    assert (one.site, one.source, is_placed(one)) == ("<data>", None, False)
    assert "by 1e-07 of itself, and by 2e-05 at the start" in one.message
    (other,) = StuckOnFloor().judge(curves(calm, (1, 2, 2), replace(look, began_reading=0.0)))
    assert (other.site, other.source) == ("model", "a.py:3")


@pytest.mark.parametrize(
    ("op", "code", "site"),
    [
        ("getitem", "MSK006", "core.attention"),
        ("getitem", "STA001", "core.pool"),
        ("mean", "MSK006", "core.pool"),
    ],
)
def test_a_part_that_nothing_comes_to_is_kept_off_by_a_mask(op: str, code: str, site: str) -> None:
    look = Look(began_reading=0.0, reading=0.0, moved=1.3, lost=Lost(op, "core.pool", "a.py:3"))
    (blind,) = StuckOnFloor().judge(curves([1.0] * 60, (1, 2, 2), look))
    assert ("nothing carries the signal to the part" in blind.message) == (op == "getitem")
    cause = Finding(code, "why", Verdict.WARN, "hides.", "Turn it.", site="core.attention")
    (told,) = _explained(Judgement((blind,)), Judgement((cause,))).findings
    assert told.site == site
    assert (f"The likely cause ({code})" in told.message) == (op == "getitem")


def test_first_steps_that_throw_the_loss_off_say_that_they_are_too_large() -> None:
    sunk = curves([3.5, 2.4e8, 1e8, *[-1e7 * i for i in range(90)]], (0, 0, 0))
    (one,) = Diverged().judge(sunk)
    assert (one.site, one.step) == ("<optimizer>", 1)
    assert "diverged: the step is too large, for 1 of them threw the loss from 3.5 to 2.4e+08" in (
        one.message
    )
    assert "from there it falls without bound" in one.message
    (slow,) = Diverged().judge(curves([3.5 - 1e7 * i for i in range(90)], (0, 0, 0)))
    assert "the step is too large" not in slow.message
    (high,) = Diverged().judge(curves([3.5, 900.0, *[50.0] * 90], (0, 0, 0)))
    assert "threw the loss from 3.5 to 900; the loss went from 3.5 to 50" in high.message


def test_a_batch_of_one_sample_does_not_keep_the_others_from_being_exchanged() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    batches = [{"x": torch.randn(n, 4), "y": torch.arange(n) % 3} for n in (1, 4)]

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"])

    subject = Subject(model, batches, loss, lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    look = Looker(subject, batches, kept_start(model)).look()
    assert look.reading is not None
    assert look.reading > 1e-3
