from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overfit.curves import read_curves
from overfit.plan import Plan
from overfit.rules import RULES
from overfit.suite import run_copy
from probes import Ratio, Subject, Verdict, judge
from probes.errors import RequestError
from probes.run import Run

Batch = dict[str, Tensor]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def right(model: nn.Module, batch: Batch) -> Ratio:
    return Ratio((model(batch["x"]).argmax(-1) == batch["y"]).sum(), len(batch["y"]))


def make(dropout: float = 0.0, **more: Any) -> Subject:
    torch.manual_seed(0)
    x, y = torch.randn(24, 8), torch.randint(0, 3, (24,))
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 3))
    fields: dict[str, Any] = {"loss": loss, "metrics": {"class": right}, "clip_norm": 1.0}
    return Subject(
        model,
        [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)],
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        **(fields | more),
    )


def run(subject: Subject, folder: Path, **plan: Any) -> Run:
    run_copy(subject, Plan(**{"size": 5, "sizes": (5, 20)} | plan), folder / "part", quiet)
    return Run(folder / "part")


def quiet(step: int, words: str) -> None:
    """Nothing is told."""


def codes(record: Run) -> list[str]:
    return [finding.code for finding in judge(RULES, read_curves(record)).findings]


def test_the_record_holds_what_was_asked_and_the_whole_course(tmp_path: Path) -> None:
    record = run(make(), tmp_path, seed=3)
    asked = record.facts["settings"]
    assert record.complete
    assert (asked["part"], asked["size"], asked["seed"], asked["ended"]) == (
        "suite",
        5,
        3,
        "memorised",
    )
    assert len(asked["samples"]) == len(asked["places"]) == 5
    course = read_curves(record)
    assert course.steps == tuple(range(len(course.losses)))
    assert course.losses[-1] < 0.5 * course.losses[0]
    assert course.heads["class"].counts == (5.0,) * len(course.heads["class"].steps)
    assert course.heads["class"].hits[-3:] == (5.0, 5.0, 5.0)
    assert record.readings("param_grad", "norm").site.nunique() == 4


def test_it_stops_after_perfect_evaluations_in_a_row(tmp_path: Path) -> None:
    patient = run(make(), tmp_path / "a", in_a_row=6, every=5)
    hasty = run(make(), tmp_path / "b", in_a_row=2, every=5)
    assert len(read_curves(patient).steps) == len(read_curves(hasty).steps) + 20
    assert codes(patient) == codes(hasty) == ["FIT001"]


def test_the_same_seed_gives_the_same_course_to_the_bit(tmp_path: Path) -> None:
    subject = make()
    first = read_curves(run(subject, tmp_path / "a"))
    assert first == read_curves(run(subject, tmp_path / "b"))
    assert first.losses != read_curves(run(subject, tmp_path / "c", seed=1)).losses


def test_evaluation_does_not_touch_the_training(tmp_path: Path) -> None:
    """With dropout on the course draws random numbers, and looking more often changes none."""

    def noisy(model: nn.Module, batch: Batch) -> Ratio:
        torch.rand(7)
        return Ratio(0, 1)

    subject = make(dropout=0.5, metrics={"noisy": noisy})
    often = run(subject, tmp_path / "a", every=1, steps=30, dropout=True)
    seldom = run(subject, tmp_path / "b", every=15, steps=30, dropout=True)
    assert read_curves(often).losses == read_curves(seldom).losses


def test_dropout_is_off_unless_asked_for(tmp_path: Path) -> None:
    subject = make(dropout=0.5)
    off = run(subject, tmp_path / "a", steps=5)
    on = run(subject, tmp_path / "b", steps=5, dropout=True)
    assert off.facts["settings"]["dropout_off"] == ["2.p"]
    assert on.facts["settings"]["dropout_off"] == []
    assert read_curves(off).losses != read_curves(on).losses
    assert subject.model[2].p == 0.5  # type: ignore[index, union-attr]


def test_the_subject_itself_is_not_trained(tmp_path: Path) -> None:
    subject = make()
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    run(subject, tmp_path, steps=5)
    after = subject.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_step_of_the_users_own_has_its_loss_recorded(tmp_path: Path) -> None:
    def train_step(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        found = loss(model, batch)
        found.backward()
        optimizer.step()
        return found

    course = read_curves(run(make(train_step=train_step), tmp_path))
    assert course.steps == tuple(range(len(course.steps)))
    assert course.losses[-1] < 0.5 * course.losses[0]


def test_evaluations_stand_at_the_optimizers_steps(tmp_path: Path) -> None:
    def twice(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
        for _ in range(2):
            optimizer.zero_grad()
            found = loss(model, batch)
            found.backward()
            optimizer.step()
        return found

    record = run(make(train_step=twice), tmp_path, steps=20, every=10, in_a_row=9)
    assert read_curves(record).heads["class"].steps == (0, 20, 40)


def test_parts_of_the_loss_are_evaluated_beside_it(tmp_path: Path) -> None:
    record = run(make(parts={"half": lambda m, b: loss(m, b) / 2}), tmp_path, every=10)
    parts = record.readings("loss", "evaluated")
    assert set(parts.site) == {"half"}
    assert parts.step.tolist()[:3] == [0, 10, 20]
    steps = record.readings("loss", "value")
    assert set(steps.site) == {"<loss>"}
    assert parts.value[0] == pytest.approx(steps.value[0] / 2, rel=1e-5)


def test_without_metrics_the_loss_decides(tmp_path: Path) -> None:
    assert codes(run(make(metrics={}), tmp_path)) == ["FIT001"]


def test_batches_of_several_shapes_are_gone_through_in_turn(tmp_path: Path) -> None:
    subject = make(loss=lambda model, batch: loss(model, {**batch, "x": batch["x"][:, :8]}))
    wide = [{"x": nn.functional.pad(b["x"], (0, 1)), "y": b["y"]} for b in subject.batches]
    mixed = replace(
        subject,
        batches=[*subject.batches, *wide],
        metrics={"class": lambda model, batch: right(model, {**batch, "x": batch["x"][:, :8]})},
    )
    record = run(mixed, tmp_path, size=20)
    assert record.facts["settings"]["batches"] == 2
    assert codes(record) == ["FIT001"]


def test_a_refused_step_ends_the_suite_with_its_step(tmp_path: Path) -> None:
    calls = []

    def sick(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(1)
        return loss(model, batch) * (float("nan") if len(calls) == 8 else 1.0)

    record = run(make(loss=sick), tmp_path)
    course = read_curves(record)
    assert (course.ended, course.refused) == ("refused", 7)
    assert codes(record) == ["FIT003"]
    assert [each.code for each in record.judgement.findings] == ["NAN000"]


def test_an_exception_of_the_users_code_stands_in_the_record_with_its_line(tmp_path: Path) -> None:
    calls = []

    def frail(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(1)
        if len(calls) == 8:
            raise ValueError("the eighth is too much")
        return loss(model, batch)

    record = run(make(loss=frail), tmp_path)
    (finding,) = judge(RULES, read_curves(record)).findings
    assert (finding.code, finding.verdict, finding.step) == ("FIT005", Verdict.FAIL, 7)
    assert "died after 7 of 400 steps: ValueError: the eighth is too much" in finding.message
    assert finding.source is not None
    assert Path(finding.source.rpartition(":")[0]).name == "test_suite.py"


def test_a_metric_that_is_no_pair_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="but a pair of hits and count was expected"):
        run(make(metrics={"class": lambda model, batch: 0.5}), tmp_path)
