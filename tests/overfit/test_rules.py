from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from overfit.bottleneck import Bottleneck
from overfit.curves import Accuracy, Curves
from overfit.drive import Drive
from overfit.floors import Floor
from overfit.frozen import Frozen, frozen_of
from overfit.look import Look
from overfit.miscounted import Miscounted
from overfit.outcome import outcome
from overfit.parting import Parting
from overfit.rules import RULES
from overfit.rules.diverged import Diverged
from overfit.rules.flat import Flat
from overfit.rules.memorised import Memorised
from overfit.rules.too_slow import TooSlow
from overfit.trials import Trials
from probes import Finding, Verdict, judge


def curves(losses: list[float], right: list[int] | None = None, **more: Any) -> Curves:
    """A suite of five samples; `right` out of 10 at evaluations ten steps apart."""
    heads = {}
    if right is not None:
        steps = tuple(10 * i for i in range(len(right)))
        heads = {"token": Accuracy(steps, tuple(map(float, right)), (10.0,) * len(right))}
    course = Curves(
        name="overfit-5-seed0",
        size=5,
        seed=0,
        budget=400,
        unit="samples",
        steps=tuple(range(len(losses))),
        losses=tuple(losses),
        heads=heads,
        ended="steps",
    )
    return replace(course, **more)


FALLING = [1.6 * 0.9**i for i in range(100)]
STUCK = [1.6 * 0.9**i for i in range(8)] + [0.7] * 92
SLOW = [2.0 - 0.01 * i for i in range(100)]
FLAT = [1.61, 1.6, 1.62, 1.6] * 25
GROWING = [1.6 * 1.1**i for i in range(100)]
BLOWN = [1.6, 80.0, 900.0, *[1.58] * 97]
SINKING = [-1.0 * 1.1**i for i in range(100)]
GONE = [1.6] * 50 + [math.nan]

SUNK = [-1.6 * 1.1 ** min(i, 26) for i in range(100)]
ZERO = Finding("GRD003", "exact-zero", Verdict.WARN, "`a` gets none.", "Look.", site="a")
BIGRAM = (
    Floor("label prior", "token", 0.2, 1.5, True),
    Floor("previous gold token", "token", 0.4, 0.71),
)

COURSES = [
    ("FIT001", curves(FALLING)),
    ("FIT001", curves(STUCK, [0, 10])),
    ("FIT001", curves([1e-6] * 30, [10, 10, 10])),
    ("FIT002", curves(STUCK)),
    ("FIT009", curves(SLOW)),
    ("FIT009", curves(SLOW, [0, 4])),
    ("FIT002", curves(FLAT, [0, 5])),
    ("FIT003", curves(GROWING)),
    ("FIT003", curves(BLOWN)),
    ("FIT003", curves(GONE)),
    ("FIT003", curves(SINKING, [2, 2])),
    ("FIT003", curves(GONE, [0, 10], ended="refused", refused=51, said="`a` is NaN.")),
    ("FIT003", curves([], ended="refused", refused=0, said="`a` is NaN.")),
    ("FIT004", curves(FLAT)),
    ("FIT004", curves(FLAT, [2, 3])),
    ("FIT004", curves([-3.0] * 30, [2, 3])),
    ("FIT014", curves(FALLING, [0, 2], look=Look(parting=Parting("model", 1.0, "a.py:3", True)))),
    ("FIT014", curves(FALLING, [9, 0], look=Look(reading=0.0, moved=1.0))),  # a swapped hinge
    ("FIT014", curves(SUNK, [2, 0], look=Look(reading=0.0, moved=1.0, climbed=40))),
    ("FIT002", curves(FALLING, [0, 2], look=Look(frozen=Frozen(("body.weight",), 0.1)))),
    ("FIT002", curves(FALLING, [0, 2], look=Look(), watched=(ZERO,))),  # nothing was missing
    ("FIT012", curves(STUCK, [0, 2], look=Look(), watched=(ZERO,))),
    ("FIT002", curves(FALLING, [0, 2], floors=(Floor("label prior", "token", 1.0, 0.0, True),))),
    ("FIT007", curves(STUCK, [0, 4], look=Look(), floors=BIGRAM)),
    ("FIT002", curves(STUCK, [0, 6], look=Look(), floors=BIGRAM)),  # more is right than by that
    ("FIT005", curves(FALLING, ended="died", said="ValueError: no", source="train.py:3")),
]


@pytest.mark.parametrize(("code", "course"), COURSES)
def test_exactly_one_verdict_holds(code: str, course: Curves) -> None:
    judgement = judge(RULES, course)
    assert [finding.code for finding in judgement.findings] == [code]


def finding(course: Curves) -> Finding:
    (found,) = judge(RULES, course).findings
    return found


def test_memorised_is_a_note_that_counts() -> None:
    found = finding(curves(STUCK, [0, 10]))
    assert found.verdict is Verdict.NOTE
    assert found.message == "5 samples memorised within 100 steps (seed 0): `token` 10 of 10."


def test_a_birth_that_a_smaller_suite_had_as_well_is_told_once() -> None:
    small = curves([], ended="refused", refused=0, said="`f` divides by 0: 1 of 5.")
    large = replace(small, size=20, said="`f` divides by 0: 11 of 20.", smaller=(small,))
    assert finding(large).message.endswith("refused; it was born where that of 5 samples was.")
    other = replace(large, said="`g` divides by 0: 11 of 20.")
    assert finding(other).message.endswith("refused; `g` divides by 0: 11 of 20.")


def test_an_accuracy_that_nobody_gave_says_where_its_counts_come_from() -> None:
    known = curves(FALLING, [0, 10])
    told = [each.evidence[0].what for each in map(finding, (known, replace(known, derived=True)))]
    assert told[0] == "`token` right"
    assert told[1] == f"{told[0]} (no metric is given: counted from what the loss is handed)"


def test_every_other_verdict_fails() -> None:
    for code, course in COURSES:
        assert (finding(course).verdict is Verdict.FAIL) == (code != "FIT001")


def test_not_memorised_names_the_worst_head_first_and_what_the_loss_tends_to() -> None:
    course = curves(STUCK, [0, 9])
    course = replace(course, heads={**course.heads, "db": Accuracy((0, 10), (0, 1), (4, 4))})
    found = finding(course)
    assert "right are `db` 1 of 4, `token` 9 of 10" in found.message
    assert found.message.endswith("is 0.7 now, and tends to 0.7.")
    swinging = [0.7 if i % 5 else 2.0 for i in range(len(STUCK))]  # its median is less than it
    said = finding(replace(course, losses=(1.5, *swinging[1:]))).message
    assert said.endswith("is 0.7 now, and 0.96 on average over the last quarter.")


def test_too_slow_says_how_many_steps_it_would_take() -> None:
    found = finding(curves(SLOW))  # a line, which comes to a twentieth of its start at step 190
    assert found.message.endswith("extrapolated, it would need about 210 steps in all.")
    assert "`--steps 210`" in found.fix


def test_a_suite_that_was_short_while_training_is_in_order_is_a_note() -> None:
    known = curves(FALLING, [0, 10])
    near = replace(curves(SLOW), heads={"pixel": Accuracy((0, 10), (50, 96), (100, 100))})
    near = replace(near, derived=True, smaller=(known,))
    found = finding(near)
    assert (found.code, found.verdict) == ("FIT009", Verdict.NOTE)
    assert found.message.startswith("5 samples are nearly memorised, in too few steps: after 100")
    held = Drive(100, 100, rate=1e-3, last=1e-5, usual=5e-6)
    fewer = {"pixel": Accuracy((0, 10), (50, 89), (100, 100))}
    for other in ({"smaller": ()}, {"heads": fewer}, {"drive": held}):
        assert outcome(replace(near, **other)).findings[0].verdict is Verdict.FAIL


@pytest.mark.parametrize("course", [curves(SLOW), curves(FLAT)])
def test_what_held_the_steps_back_is_said_where_something_did(course: Curves) -> None:
    warming = Drive(100, 100, rate=1e-3, last=1e-5, usual=5e-6)
    found = finding(replace(course, drive=warming))
    assert "the schedule leaves 0.005 of the learning rate of 0.001 in the median" in found.message
    assert "warm-up" in found.fix
    clipped = Drive(100, 100, rate=0.1, last=0.1, usual=0.1, proportional=True)
    assert (
        "clipping leaves 0.003 of" in finding(replace(course, drive=clipped, clipped=3e-3)).message
    )
    adam = replace(clipped, proportional=False)  # its steps are as large whatever clipping leaves
    for drive, left in ((adam, 3e-3), (clipped, 0.5), (replace(warming, usual=5e-4), None)):
        said = finding(replace(course, drive=drive, clipped=left)).message
        assert "clipping" not in said
        assert "schedule" not in said


def test_a_refusal_after_growth_blames_the_step_and_one_without_does_not() -> None:
    grew = finding(curves(GROWING, ended="refused", refused=100, said="`w` is inf."))
    assert (grew.site, grew.step) == ("<optimizer>", 100)
    assert "diverged: step 100 was not finite and was refused; `w` is inf." in grew.message
    calm = finding(curves([1.6, 1.5], ended="refused", refused=2, said="`w` is inf."))
    assert (calm.site, calm.step) == (None, 2)
    assert "stopped: step 2 was not finite" in calm.message


def test_divergence_names_the_step_that_first_passed_the_limit() -> None:
    assert finding(curves(GROWING)).step == 8  # 1.6 * 1.1**8 is the first above 3.2
    assert finding(curves(GONE)).step == 50


def test_a_death_names_the_line() -> None:
    found = finding(curves(FALLING, ended="died", said="ValueError: no", source="train.py:3"))
    assert found.source == "train.py:3"
    assert "died after 100 of 400 steps: ValueError: no" in found.message


@pytest.mark.parametrize(
    ("course", "why"),
    [
        (curves(FALLING, ended=None), "the suite of 5 samples was cut off after 100 of 400 steps"),
        (curves([]), "the suite of 5 samples recorded no loss"),
        (curves([0.0] * 9), "the loss began at 0"),
        (curves([-2.0] * 9), "the loss began at -2"),
    ],
)
def test_what_cannot_be_judged_says_why(course: Curves, why: str) -> None:
    not_judged = {each.code: each.why for each in judge(RULES, course).not_judged}
    assert "FIT001" in not_judged
    assert why in not_judged["FIT001"]


def test_what_is_frozen_is_told_where_no_verdict_says_why() -> None:
    look = Look(frozen=Frozen(("body.weight", "head.weight"), 0.097, "body"))
    (lead, *_) = outcome(curves(FALLING, [0, 2], look=look)).findings
    assert "`body.weight` and 1 more are frozen, and 0.097 of all numbers train." in lead.message
    assert lead.fix.startswith("Look whether `body.weight` and 1 more are to be frozen")
    assert lead.site == "body"


@pytest.mark.parametrize(("trained", "partly"), [(["2.bias"], "2"), (["0.bias", "2.bias"], None)])
def test_a_module_that_trains_in_part_is_named_where_it_is_not_the_rule(
    trained: list[str], partly: str | None
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    found = frozen_of(model, ("3.",))
    assert found is not None
    assert found.partly == partly
    assert found.names[0] == ("2.weight" if partly else "0.weight")
    assert len(found.names) == 6 - len(trained) - 2
    assert found.share == pytest.approx(2 * len(trained) / 18)


FLOORED = curves(
    [1.1] * 10 + [1.05] * 90,
    [3, 4],
    look=Look(reading=0.3, moved=1.0, narrow="squeeze", width=1),
    floors=(Floor("label prior", "token", 0.4, 1.08, exact=True),),
)


@pytest.mark.parametrize(("prior", "code"), [(0.6, "FIT013"), (1.0, "FIT007")])
def test_fewer_memorised_say_capacity_only_where_no_floor_memorises_them(
    prior: float, code: str
) -> None:
    floor = Floor("label prior", "token", prior, 0.5, exact=True)
    fewer = curves(FALLING, [5, 10], floors=(floor,))
    lead = outcome(replace(FLOORED, size=20, smaller=(fewer,))).findings[0]
    assert (lead.code, lead.verdict) == (code, Verdict.FAIL)


@pytest.mark.parametrize(
    ("passes", "words", "site"),
    [(1, "to capacity: its narrowest layer is `squeeze`", "squeeze"),
     (5, "to capacity: its narrowest layer is `squeeze`", "squeeze"),  # it has stopped falling
     (20, "too few steps: each was seen 5 times, while it took 20 times to memorise the 5", None)],
)  # fmt: skip
def test_fewer_memorised_in_more_passes_say_too_few_steps(
    passes: int, words: str, site: str | None
) -> None:
    floor = Floor("label prior", "token", 0.6, 0.5, exact=True)
    fewer = curves(FALLING, [5, 10], floors=(floor,), passes=max(1, passes // 4))
    lead = outcome(replace(FLOORED, size=20, passes=passes, smaller=(fewer,))).findings[0]
    assert (lead.code, lead.site) == ("FIT013", site)
    assert words in lead.message
    assert (lead.fix == "Give 20 samples 400 steps or more.") == (site is None)
    tried = Trials(bottleneck=Bottleneck("code", "a.py:7", 4, 32, 0.31, 0.32))
    held = Look(reading=0.3, moved=1.0, trials=tried)
    short = replace(FLOORED, size=20, passes=passes, smaller=(fewer,), look=held)
    assert outcome(short).findings[0].site == "code"


def test_an_accuracy_that_counts_wrongly_what_the_loss_has_right_is_named() -> None:
    wrong = Miscounted("token", "labels", 2.0, 10.0, "a.py:7", 10.0)
    found = finding(curves(FALLING, [0, 2], look=Look(miscounted=(wrong,))))
    assert (found.code, found.source) == ("FIT002", "a.py:7")
    assert "so `token` at a.py:7 counts by other labels or scores than the loss." in found.message
    assert finding(curves(STUCK, [0, 2], look=Look(miscounted=(wrong,)))).source is None


def test_an_accuracy_that_counts_labels_that_the_loss_does_not_score_is_at_its_ceiling() -> None:
    more = Miscounted("token", "labels", 6.0, 10.0, "a.py:7", 6.0)
    found = finding(curves(FALLING, [2, 6], look=Look(miscounted=(more,))))
    assert (found.code, found.site, found.source) == ("FIT006", "<loss>", "a.py:7")
    assert "the loss teaches no more, for 4 are labels that are counted, but that" in found.message
    assert finding(curves(FALLING, [2, 4], look=Look(miscounted=(more,)))).code == "FIT002"
    assert finding(curves(STUCK, [2, 6], look=Look(miscounted=(more,)))).code == "FIT002"


def test_a_metric_that_sets_the_mode_itself_hides_no_disagreement_of_the_modes() -> None:
    look = Look(trained=1e-4, evaluated=9.0, hits={"token": 6.0}, counts={"token": 10.0})
    found = finding(curves(FALLING, [2, 6], look=look))
    assert found.code == "FIT014"
    assert "a loss of 0.0001 in training mode, and one of 9 in evaluation mode" in found.message
    near = Look(trained=1e-4, evaluated=2e-4, hits={"token": 6.0}, counts={"token": 10.0})
    assert finding(curves(FALLING, [2, 6], look=near)).code == "FIT002"


def test_an_accuracy_that_counts_more_than_the_loss_scores_says_both_numbers() -> None:
    wrong = Miscounted("token", "labels", 2.0, 10.0, "a.py:7", 3.0)
    found = finding(curves(FALLING, [0, 2], look=Look(miscounted=(wrong,))))
    assert "all 3 labels that the loss scores have the largest score, and `token`" in found.message
    assert "at a.py:7 counts 10" in found.message
    assert "ignored, or masked out" in found.fix


@pytest.mark.parametrize(("other", "code"), [(4, "FIT007"), (10, "FIT008")])
def test_a_head_is_stuck_and_not_the_model_where_another_is_perfect(other: int, code: str) -> None:
    heads = {**FLOORED.heads, "age": Accuracy((0, 10), (3.0, float(other)), (10.0, 10.0))}
    floors = (*FLOORED.floors, Floor("label prior", "age", 0.4))
    lead = outcome(replace(FLOORED, heads=heads, floors=floors)).findings[0]
    assert (lead.code, lead.verdict) == (code, Verdict.FAIL)


def test_limits_are_the_rules_own_fields() -> None:
    half = curves([1.6] * 50 + [0.8] * 50)
    assert not Memorised().holds(half)
    assert Memorised(loss_left=0.5).holds(half)
    grown = curves([1.0] * 10 + [1.8] * 50)
    assert not Diverged().holds(grown)
    assert Diverged(rise=1.5).holds(grown)
    fallen = curves([1.0] * 10 + [0.85] * 50)
    assert not Flat().holds(fallen)
    assert Flat(fall=0.2).holds(fallen)
    assert TooSlow().holds(curves(SLOW))
    assert not TooSlow(falling=0.5).holds(curves(SLOW))


@pytest.mark.parametrize(
    ("site", "losses", "code"),
    [("<loss>", FALLING, "FIT014"), ("body", FALLING, "FIT002"), ("<loss>", STUCK, "FIT002")],
)
def test_a_loss_learned_on_labels_of_other_places_names_what_puts_them_there(
    site: str, losses: list[float], code: str
) -> None:
    places = Finding("LBL002", "label-place", Verdict.WARN, "they are.", "Flatten.", site="<loss>")
    view = Finding("IDX005", "view", Verdict.WARN, "`view` mixes.", "Move.", site, source="a.py:3")
    watched = (places, view) if site == "<loss>" else (view,)
    found = finding(curves(losses, [0, 2], look=Look(), watched=watched))
    assert found.code == code
    if code == "FIT014":
        assert (found.site, found.source, found.fix) == ("<loss>", "a.py:3", "Move.")
        assert found.message.endswith("than they are counted (IDX005): `view` mixes.")
