from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overfit.curves import read_curves
from overfit.interventions import (
    FROZEN,
    NO_CLIPPING,
    NO_DECAY,
    NO_SCHEDULE,
    THAWED,
    WHOLE_PRECISION,
    CannotChangeError,
    changed,
    offered,
)
from overfit.plan import Plan
from overfit.rules.unlocked import Unlocked
from overfit.suite import run_copy
from probes import Subject
from probes.run import Run

BATCH = {"x": torch.randn(6, 4), "y": torch.tensor([0, 1, 2, 0, 1, 2])}


def subject(**more: Any) -> Subject:
    torch.manual_seed(0)
    fields: dict[str, Any] = {
        "model": nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)),
        "batches": [BATCH],
        "loss": lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
        "optimizer": lambda model: torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.5),
    }
    return Subject(**(fields | more))


def group(made: Subject) -> dict[str, Any]:
    return made.optimizer(made.model).param_groups[0]


def test_only_what_changes_something_is_offered() -> None:
    plain = offered(subject(optimizer=lambda m: torch.optim.SGD(m.parameters(), 0.1)))
    assert [*plain] == [
        *("learning rate x 0.1", "learning rate x 10", "learning rate x 100"),
        *("gradients clipped to 1", FROZEN),
    ]
    rich = subject(
        clip_norm=0.1,
        schedule=lambda over: torch.optim.lr_scheduler.StepLR(over, 1),
        parts={"a": lambda m, b: m(b["x"]).sum(), "b": lambda m, b: m(b["x"]).sum()},
        interventions={"mine": lambda s: s},
    )
    rich.model[0].requires_grad_(False)  # type: ignore[index, union-attr]
    assert {NO_SCHEDULE, NO_CLIPPING, NO_DECAY, THAWED, "loss part `a` alone", "mine"} <= set(
        offered(rich)
    )


def test_each_changes_what_it_says() -> None:
    assert group(changed(subject(), ["learning rate x 100"]))["lr"] == pytest.approx(10)
    both = changed(subject(clip_norm=1.0), [NO_DECAY, NO_CLIPPING])
    assert group(both)["weight_decay"] == 0
    assert both.clip_norm is None
    frozen = changed(subject(), [FROZEN])
    assert [each.shape for each in group(frozen)["params"]] == [(3, 8), (3,)]
    again = changed(frozen, [THAWED])
    held = [each for g in again.optimizer(again.model).param_groups for each in g["params"]]
    assert len(held) == 4
    half = subject()
    half.model.bfloat16()
    wide = changed(half, [WHOLE_PRECISION])
    assert wide.loss(wide.model, {**BATCH, "x": BATCH["x"].bfloat16()}).dtype is torch.float32


def test_an_optimizer_that_cannot_be_made_again_is_a_sentence() -> None:
    outer = subject()
    bound = replace(outer, optimizer=lambda _: torch.optim.SGD(outer.model.parameters(), 0.1))
    with pytest.raises(CannotChangeError, match="does not hold the parameters of the model"):
        offered(bound)
    calls: list[int] = []

    def once(model: nn.Module) -> torch.optim.Optimizer:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("only once")
        return torch.optim.SGD(model.parameters(), 0.1)

    single = subject(optimizer=once)
    offered(single)
    with pytest.raises(CannotChangeError, match="cannot be made again: RuntimeError: only once"):
        offered(single)


def test_an_intervention_that_raises_is_told_and_ends_its_own_run_alone(tmp_path: Path) -> None:
    def broken(_: Subject) -> Subject:
        raise ValueError("no such layer")

    own = subject(interventions={"mine": broken, "odd": lambda s: None})  # type: ignore[dict-item, return-value]
    with pytest.raises(CannotChangeError, match="`odd` returned a NoneType"):
        changed(own, ["odd"])
    with pytest.raises(CannotChangeError, match="`unheard` changes nothing"):
        changed(own, ["unheard"])
    plan = Plan(5, (5,), steps=4, kind="try", changed=("mine",))
    run_copy(own, plan, tmp_path / "part", lambda step, words: None)
    tried = read_curves(Run(tmp_path / "part"))
    assert tried.ended == "died"
    run_copy(own, Plan(5, (5,), steps=4), tmp_path / "suite", lambda step, words: None)
    suite = replace(read_curves(Run(tmp_path / "suite")), tries={("mine",): tried})
    assert list(Unlocked().judge(suite)) == []
    more = replace(suite, tries={("mine",): tried, ("other",): replace(suite, name="other")})
    (note,) = Unlocked().judge(more)
    told = {each.what: str(each.value) for each in note.evidence}
    assert "the intervention `mine` raised ValueError: no such layer" in told["mine"]
