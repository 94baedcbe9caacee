"""What earlier steps did, settled by a run from the start; buffers; relief."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from nan_watch.hunt import hunt
from probes.finding import Finding, Verdict
from probes.patch import only_samples
from probes.seeding import seed_everything
from probes.subject import Subject

Batches = list[dict[str, Tensor]]


def regression(steps: int = 12) -> Batches:
    chance = torch.Generator().manual_seed(0)
    return [
        {"x": torch.randn(8, 4, generator=chance), "y": torch.randn(8, 1, generator=chance)}
        for _ in range(steps)
    ]


def squared(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch["x"]) - batch["y"]).square().mean()


def found(subject: Subject) -> Finding:
    """The leading finding of a hunt."""
    seed_everything(0)
    return hunt(subject, 100, Path("run")).judgement.findings[0]


def said(finding: Finding, what: str) -> list[Any]:
    return [each.value for each in finding.evidence if what in each.what]


def deep() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))


def test_a_step_too_large_is_confirmed_by_a_run_with_a_tenth_of_it() -> None:
    subject = Subject(
        deep(), regression(), squared, lambda m: torch.optim.SGD(m.parameters(), lr=0.7)
    )
    finding = found(subject)
    assert (finding.code, finding.confirmed) == ("NAN019", True)
    assert said(finding, "a tenth of the learning rate") == ["finite, and without it not"]
    assert said(finding, "relief: the same with the gradient norm clipped") == ["finite"]


def test_a_loss_that_stood_at_zero_grows_as_well() -> None:
    batches = regression(20)
    batches[0] = {"x": torch.zeros(8, 4), "y": torch.zeros(8, 1)}
    model = nn.Linear(4, 1, bias=False)
    finding = found(
        Subject(model, batches, squared, lambda m: torch.optim.SGD(m.parameters(), lr=1e4))
    )
    assert (finding.code, finding.verdict) == ("NAN019", Verdict.FAIL)
    assert said(finding, "growth of the loss")[0] > 1e6


def test_a_rule_that_is_broken_still_says_at_which_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("nan_watch.causes.step_too_large.StepTooLarge._loss", breaks)
    sgd = lambda m: torch.optim.SGD(m.parameters(), lr=1e4)  # noqa: E731
    finding = found(Subject(deep(), regression(20), squared, sgd))
    assert finding.verdict is Verdict.BROKEN
    assert finding.step is not None


def test_what_a_tenth_of_the_rate_only_postpones_is_not_confirmed() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    subject = Subject(
        model,
        [{"x": torch.ones(1, 1)}],
        lambda model, batch: -model(batch["x"]).exp().mean(),  # it has no end, at any rate
        lambda m: torch.optim.SGD(m.parameters(), lr=1.0),
    )
    finding = found(subject)
    assert (finding.code, finding.confirmed) == ("NAN019", False)
    assert said(finding, "a tenth of the learning rate")[0].endswith("steps: postponed")


def test_a_late_failure_is_settled_from_a_kept_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nan_watch.rerun.settle.MOST", 3)

    def subject() -> Subject:
        return Subject(
            deep(), regression(), squared, lambda m: torch.optim.SGD(m.parameters(), lr=0.7)
        )

    assert said(found(subject()), "the steps run again")[0].startswith("more than 3 steps back")
    seed_everything(0)
    kept = hunt(subject(), 100, Path("kept"), keep_every=1).judgement.findings[0]
    assert kept.confirmed is not None


def test_a_failure_that_does_not_repeat_is_neither_confirmed_nor_refuted() -> None:
    calls = []

    def grows_once(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        return squared(model, batch) * (1e30 if len(calls) in (5, 6, 7) else 1.0)

    subject = Subject(
        deep(), regression(), grows_once, lambda m: torch.optim.SGD(m.parameters(), lr=0.01)
    )
    finding = found(subject)
    assert finding.code == "NAN019"
    assert finding.confirmed is None
    assert said(finding, "the steps run again") == ["finite: the failure does not repeat"]


class Reader(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 16, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(16, 1)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def test_an_exploding_recurrence_is_confirmed_with_matrices_of_norm_one() -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 150, 4)
    subject = Subject(
        Reader(3.0),
        [{"x": x, "y": torch.zeros(4, 1)}] * 5,
        squared,
        lambda m: torch.optim.SGD(m.parameters(), lr=1e-3),
    )
    finding = found(subject)
    assert (finding.code, finding.site, finding.confirmed) == ("NAN018", "rnn", True)
    assert said(finding, "recurrent matrices of norm 1") == ["finite, and without it not"]


class Trust(torch.optim.Optimizer):
    """Scales each update by the norm of its weights over that of its gradient."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    ratio = p.norm() / p.grad.norm()  # HERE
                    p -= group["lr"] * ratio * p.grad


def line(mark: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(i for i, text in enumerate(lines, 1) if text.endswith(f"# {mark}"))


def test_the_operator_of_an_update_is_named_by_a_run_from_the_start() -> None:
    batches = regression()
    batches[3]["x"] = torch.zeros(8, 4)  # no gradient for the first layer

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return (model[0](batch["x"]) * 1.0).square().mean() * batch["x"].abs().max()

    subject = Subject(deep(), batches, loss, lambda m: Trust(m[0].parameters()))
    finding = found(subject)
    assert (finding.phase, finding.step, finding.site) == ("update", 3, "<optimizer>")
    assert finding.op == "aten.div"
    assert finding.source is not None
    assert finding.source.endswith(f"{Path(__file__).name}:{line('HERE')}")


class Ascent(torch.optim.Optimizer):
    """Sharpness-aware: climbs by the gradient over its norm, then lets its base step down."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.01})
        self.base = torch.optim.SGD(self.param_groups, lr=0.01)

    @torch.no_grad()
    def climb(self) -> None:
        held = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in held]).norm()
        for p in held:
            p += p.grad / norm  # CLIMB

    def step(self, closure: Any = None) -> None:
        raise AssertionError("the base steps in its place")


def sharp(first: Tensor) -> Subject:
    def step(model: nn.Module, batch: Any, optimizer: Any) -> Tensor:
        model.zero_grad()
        (squared(model, batch) * batch["on"]).backward()
        optimizer.climb()
        model.zero_grad()
        loss = squared(model, batch)
        loss.backward()
        optimizer.base.step()
        return loss

    batches = [batch | {"on": on} for batch, on in zip(regression(), first, strict=False)]
    return Subject(deep(), batches, squared, lambda m: Ascent(m.parameters()), train_step=step)


def test_an_optimizer_that_is_stepped_inside_another_is_guarded_too() -> None:
    finding = found(sharp(torch.tensor([1.0, 1.0, 0.0, 1.0])))
    assert (finding.phase, finding.step, finding.site) == ("update", 2, "<optimizer>")
    assert (finding.op, finding.confirmed) == ("aten.div", True)
    assert finding.source is not None
    assert finding.source.endswith(f":{line('CLIMB')}")


def test_a_step_inside_another_that_is_fine_is_no_news() -> None:
    seed_everything(0)
    hunted = hunt(sharp(torch.ones(12)), 12, Path("run"))
    assert [each for each in hunted.judgement.findings if each.code.startswith("NAN")] == []
    assert hunted.steps == 12


def test_nothing_is_passed_where_no_step_was_taken() -> None:
    subject = sharp(torch.ones(12))
    idle = Subject(
        subject.model,
        subject.batches,
        squared,
        subject.optimizer,
        train_step=lambda model, batch, optimizer: squared(model, batch).detach(),
    )
    seed_everything(0)
    judgement = hunt(idle, 5, Path("run")).judgement
    assert "NAN000" not in judgement.passed
    why = {each.code: each.why for each in judgement.not_judged}
    assert why["NAN000"] == "the optimizer that is watched took no step"


def test_a_learning_rate_that_is_nan_is_blamed_itself() -> None:
    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    subject = Subject(
        deep(),
        regression(),
        squared,
        optimizer,
        schedule=lambda o: torch.optim.lr_scheduler.LambdaLR(
            o, lambda step: float("nan") if step == 2 else 1.0
        ),
    )
    finding = found(subject)
    assert (finding.code, finding.phase, finding.step) == ("NAN028", "update", 2)
    assert finding.site == "<optimizer>"


class Prototypes(nn.Module):
    """Keeps the mean of each class's features; a class without a sample divides by zero."""

    def __init__(self, guarded: bool) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.guarded = guarded
        self.register_buffer("means", torch.zeros(2, 3))

    def forward(self, x: Tensor, kind: Tensor, read: bool) -> Tensor:
        h = self.body(x)
        chosen = nn.functional.one_hot(kind, 2).float()  # (sample, class)
        count = chosen.sum(0)[:, None]
        if self.guarded:
            count = count.clamp(min=1)
        self.means = (chosen.T @ h.detach()) / count  # BUFFER
        return (h - self.means[kind]) if read else h


def prototypes(guarded: bool, first_read: int) -> Subject:
    chance = torch.Generator().manual_seed(0)
    batches = [
        {
            "x": torch.randn(6, 4, generator=chance),
            "kind": torch.tensor([0, 1, 0, 1, 0, 1] if step != 2 else [1] * 6),
            "all": torch.tensor(step >= first_read),
        }
        for step in range(8)
    ]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        kept = model.means
        out = model(batch["x"], batch["kind"], read=False)
        return out.square().mean() + (kept.square().mean() if batch["all"] else 0.0)

    torch.manual_seed(0)
    return Subject(
        Prototypes(guarded), batches, loss, lambda m: torch.optim.SGD(m.parameters(), lr=0.01)
    )


def test_a_buffer_that_turns_nan_is_a_note_while_nothing_reads_it() -> None:
    finding = found(prototypes(guarded=False, first_read=99))
    assert (finding.verdict, finding.op, finding.step) == (Verdict.NOTE, "aten.div", 2)
    assert finding.phase == "forward"
    assert finding.source is not None
    assert finding.source.endswith(f":{line('BUFFER')}")
    assert any("means" in each.what for each in finding.evidence)
    assert not Path("run/capsule").exists()  # no step was refused


def test_a_buffer_that_poisons_a_later_loss_leads_to_the_step_that_wrote_it() -> None:
    finding = found(prototypes(guarded=False, first_read=3))
    assert (finding.verdict, finding.code, finding.step) == (Verdict.FAIL, "NAN004", 2)
    assert finding.source is not None
    assert finding.source.endswith(f":{line('BUFFER')}")
    assert said(finding, "poisons the loss")


def test_buffers_that_stay_finite_are_no_news() -> None:
    seed_everything(0)
    assert hunt(prototypes(guarded=True, first_read=3), 8, Path("run")).judgement.findings == ()


def test_the_sentinel_looks_at_no_buffer() -> None:
    seed_everything(0)
    subject = prototypes(guarded=False, first_read=99)
    assert hunt(subject, 8, Path("run"), tier="sentinel").judgement.findings == ()


def test_a_statistic_that_was_loaded_poisoned_is_a_warning() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    model[1].running_var[1] = float("nan")
    subject = Subject(
        model, regression(), squared, lambda m: torch.optim.SGD(m.parameters(), lr=0.01)
    )
    finding = found(subject)
    assert (finding.code, finding.verdict) == ("NAN017", Verdict.WARN)
    assert finding.site == "1.running_var"


def test_statistics_that_the_failing_step_itself_poisons_are_its_victims() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    batches = regression()
    batches[2]["x"][5, 1] = float("nan")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.raises(PoisonedStep) as refused, NanWatch(model, optimizer, out="run"):  # noqa: PT012
        for batch in batches:
            optimizer.zero_grad()
            squared(model, batch).backward()
            optimizer.step()
    finding = refused.value.finding
    assert (finding.code, finding.site, finding.step) == ("NAN016", "<data>", 2)


def test_the_guilty_sample_left_out_is_listed_as_relief() -> None:
    batches = regression()
    batches[2]["x"][5, 1] = float("nan")
    subject = Subject(deep(), batches, squared, lambda m: torch.optim.SGD(m.parameters(), lr=0.01))
    finding = found(subject)
    assert finding.samples == (5,)
    assert said(finding, "relief: the step without sample 5") == ["finite"]
    assert batches[2]["x"].shape == (8, 4)


def test_samples_are_given_back_after_an_exception() -> None:
    batch = {"x": torch.arange(6.0).reshape(3, 2), "y": torch.arange(3)}
    with pytest.raises(RuntimeError, match="stop"), only_samples(batch, [2]):  # noqa: PT012
        assert batch["x"].tolist() == [[4.0, 5.0]]
        raise RuntimeError("stop")
    assert batch["x"].shape == (3, 2)
    with pytest.raises(ValueError, match="cannot be left out"), only_samples({"n": 1}, [0]):
        pass
