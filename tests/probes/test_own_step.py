"""What is said of a training step of the subject's own, and what is left unsaid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Step = Callable[[nn.Module, Batch, Optimizer], Tensor]


class Pair(nn.Module):
    """A generator and what judges it."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 5))
        self.judge = nn.Sequential(nn.Linear(5, 12), nn.LeakyReLU(0.2), nn.Linear(12, 1))


def judged(model: nn.Module, batch: Batch) -> Tensor:
    fake = model.maker(batch["z"]).detach()  # type: ignore[operator]
    real = F.relu(1 - model.judge(batch["x"])).mean()  # type: ignore[operator]
    return real + F.relu(1 + model.judge(fake)).mean()  # type: ignore[no-any-return, operator]


def made(model: nn.Module, batch: Batch) -> Tensor:
    return -model.judge(model.maker(batch["z"])).mean()  # type: ignore[no-any-return, operator]


def both(model: nn.Module, batch: Batch) -> Tensor:
    return judged(model, batch) + made(model, batch)


def in_turn(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    total = torch.zeros(())
    for part in (judged, made):
        optimizer.zero_grad()
        loss = part(model, batch)
        loss.backward()
        other = model.maker if part is judged else model.judge
        other.zero_grad()  # type: ignore[operator]
        optimizer.step()
        total += loss.detach()
    return total


def found(
    codes: Sequence[str],
    model: nn.Module,
    batch: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
    step: Step | None,
) -> list[Finding]:
    subject = Subject(model, [batch], loss, adam, train_step=step)
    return list(check(subject, chosen(codes)).findings)


def adam(model: nn.Module) -> Optimizer:
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)


def test_a_loss_that_is_a_report_of_two_is_not_held_against_them() -> None:
    seed_everything(0)
    batch = {"x": torch.randn(12, 5), "z": torch.randn(12, 4)}
    told = found(["WIR007", "WIR011", "WIR018"], Pair(), batch, both, in_turn)
    assert [(one.code, one.verdict) for one in told] == [("WIR011", Verdict.NOTE)]


@pytest.mark.parametrize("report", [True, False])
def test_an_input_is_read_where_the_step_alone_reads_it(report: bool) -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(model(batch["x"]), batch["y"])

    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        if report:
            value = value + model(batch["more"]).square().mean()
        value.backward()
        optimizer.step()
        return value.detach()

    seed_everything(0)
    batch = {"x": torch.randn(12, 5), "more": torch.randn(12, 5), "y": torch.randn(12, 2)}
    told = found(["WIR007"], nn.Linear(5, 2), batch, loss, step)
    assert [one.verdict for one in told] == ([] if report else [Verdict.NOTE])


@pytest.mark.parametrize("divided", ["never", "twice"])
@pytest.mark.parametrize("parts", [2, 3])
def test_a_gradient_that_is_clipped_is_not_divided(divided: str, parts: int) -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(model(batch["x"]), batch["y"])

    model = nn.Linear(5, 2)

    def step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        for x, y in zip(batch["x"].chunk(parts), batch["y"].chunk(parts), strict=True):
            (loss(model, {"x": x, "y": y}) / parts).backward()
        if divided == "twice":
            for p in model.parameters():
                p.grad = None if p.grad is None else p.grad / parts
        else:
            nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()
        return torch.zeros(())

    seed_everything(0)
    batch = {"x": torch.randn(12, 5), "y": torch.randn(12, 2)}
    loss(model, batch).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    limit = 0.98 / parts * float(nn.utils.get_total_norm(grads))
    told = found(["WIR020"], model, batch, loss, step)
    assert len(told) == (divided == "twice")


class Row(nn.Module):
    def __init__(self, gates: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6)] * 3)
        self.gates = nn.Parameter(torch.ones(gates))

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = x + self.gates[i % len(self.gates)] * layer(x).tanh()
        return x


class SharedRow(Row):
    """Its name says that it is meant."""


@pytest.mark.parametrize(("model", "verdict"), [(Row, Verdict.WARN), (SharedRow, Verdict.NOTE)])
def test_one_layer_several_times_is_a_note_where_its_name_says_so(
    model: Callable[[int], nn.Module], verdict: Verdict
) -> None:
    (one,) = _of_row(model(1))
    assert one.verdict is verdict


def test_one_layer_several_times_is_a_note_where_each_time_has_a_gate() -> None:
    (one,) = _of_row(Row(3))
    assert one.verdict is Verdict.NOTE
    assert "`gates`" in one.message


def _of_row(model: nn.Module) -> list[Finding]:
    seed_everything(0)
    batch = {"x": torch.randn(12, 6), "y": torch.randn(12, 6)}
    return found(["WIR017"], model, batch, lambda m, b: F.mse_loss(m(b["x"]), b["y"]), None)


class Scheduled:
    """Steps a schedule of its own, every so many calls."""

    def __init__(self, schedule: Callable[[Optimizer], LRScheduler], every: int) -> None:
        self.make, self.every = schedule, every
        self.schedule: LRScheduler | None = None
        self.calls = 0

    def __call__(self, model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
        if self.schedule is None or self.schedule.optimizer is not optimizer:
            self.schedule, self.calls = self.make(optimizer), 0
        optimizer.zero_grad()
        value = F.mse_loss(model(batch["x"]), batch["y"])
        value.backward()
        optimizer.step()
        if self.calls % self.every == 0:
            self.schedule.step()
        self.calls += 1
        return value.detach()


def warmed_up(optimizer: Optimizer) -> LRScheduler:
    rise = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5))
    return SequentialLR(optimizer, [rise, ExponentialLR(optimizer, 0.9)], [5])


SCHEDULES: list[tuple[Callable[[Optimizer], LRScheduler], float | None]] = [
    (lambda o: StepLR(o, 15, 0.1), 16.7),
    (lambda o: ExponentialLR(o, 0.95), 20),
    (lambda o: MultiStepLR(o, [20, 30]), 25.7),
    (lambda o: LambdaLR(o, lambda step: 0.5 ** (step // 10)), 20),
    (warmed_up, 13),
    (lambda o: ExponentialLR(o, 0.995), None),
    (lambda o: StepLR(o, 100), None),
    (lambda o: CosineAnnealingLR(o, 40), None),
    (lambda o: OneCycleLR(o, 0.01, 40), None),
    (lambda o: LambdaLR(o, lambda step: max(0.0, 1 - step / 40)), None),
    (lambda o: LambdaLR(o, lambda step: min(1.0, (step + 1) / 20)), None),
]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("schedule", "steps"), SCHEDULES)
def test_a_rate_that_falls_away_is_told_with_the_steps_it_leaves(
    schedule: Callable[[Optimizer], LRScheduler], steps: float | None, own: bool
) -> None:
    told = left(Scheduled(schedule, 1) if own else None, None if own else schedule)
    assert told == ([] if steps is None else [pytest.approx(steps, abs=0.3)])


def test_a_schedule_that_is_stepped_once_an_epoch_is_left_alone() -> None:
    assert left(Scheduled(lambda o: ExponentialLR(o, 0.5), 8), None) == []


def left(step: Step | None, schedule: Callable[[Optimizer], LRScheduler] | None) -> list[Any]:
    seed_everything(0)
    batches = [{"x": torch.randn(12, 5), "y": torch.randn(12, 2)} for _ in range(8)]
    subject = Subject(
        nn.Linear(5, 2),
        batches,
        lambda m, b: F.mse_loss(m(b["x"]), b["y"]),
        adam,
        train_step=step,
        schedule=schedule,
    )
    judged = check(subject, chosen(["WIR008"]))
    assert judged.not_judged == ()
    return [one.evidence[0].value for one in judged.findings]


class Codes(nn.Module):
    """A variational autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(20, 8), nn.Linear(4, 20)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = self.encoder(x).chunk(2, -1)
        drawn = mean + torch.randn_like(mean) * (spread / 2).exp()
        return self.decoder(drawn), mean, spread


def apart(model: nn.Module, batch: Batch, summed: bool) -> Tensor:
    made, _, _ = model(batch["x"])
    every = (made - batch["x"]).square()
    return every.sum() if summed else every.mean() * 20


def divergence(model: nn.Module, batch: Batch, summed: bool) -> Tensor:
    _, mean, spread = model(batch["x"])
    every = 5 * (mean.square() + spread.exp() - 1 - spread)
    return every.sum() if summed else every.sum(-1).mean()


def weights(model: nn.Module, batch: Batch, summed: bool) -> Tensor:
    return 1e-2 * torch.stack([p.square().sum() for p in model.parameters()]).sum()


@pytest.mark.parametrize(
    ("one", "other", "summed", "told"),
    [
        (apart, divergence, (False, True), True),
        (apart, divergence, (True, False), True),
        (apart, divergence, (True, True), False),
        (apart, divergence, (False, False), False),
        (apart, weights, (True, False), False),
    ],
)
def test_a_sum_beside_a_mean_is_told_though_numbers_are_drawn(
    one: Callable[..., Tensor], other: Callable[..., Tensor], summed: tuple[bool, bool], told: bool
) -> None:
    seed_everything(0)
    parts = {
        "one": lambda m, b: one(m, b, summed[0]),
        "other": lambda m, b: other(m, b, summed[1]),
    }
    subject = Subject(
        Codes(),
        [{"x": torch.randn(64, 20)}],
        lambda m, b: parts["one"](m, b) + parts["other"](m, b),
        adam,
        parts=parts,
    )
    findings = check(subject, chosen(["WIR015"])).findings
    worse = [one.message for one in findings if one.verdict.rank > Verdict.NOTE.rank]
    assert len(worse) == told
    assert all("is a sum over the samples" in message for message in worse)


class Transfer(nn.Module):
    """A frozen encoder in evaluation mode, and a head that learns."""

    def __init__(self, keeps: bool, affine: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, affine=affine))
        self.head = nn.Linear(8, 2)
        self.encoder.requires_grad_(False).eval()
        self.keeps = keeps

    def train(self, mode: bool = True) -> Transfer:
        super().train(mode)
        if self.keeps:
            self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))  # type: ignore[no-any-return]


def trained(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    model.train()
    optimizer.zero_grad()
    value = F.mse_loss(model(batch["x"]), batch["y"])
    value.backward()
    optimizer.step()
    return value.detach()


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        (lambda: Transfer(keeps=False), Verdict.WARN),
        (lambda: Transfer(keeps=False, affine=False), Verdict.WARN),
        (lambda: Transfer(keeps=True), None),
        (lambda: Transfer(keeps=False).train(), Verdict.NOTE),  # as a teacher's, which adapts
        (lambda: Transfer(keeps=False).eval(), Verdict.NOTE),
    ],
)
def test_frozen_statistics_that_the_step_sets_moving_are_told(
    model: Callable[[], nn.Module], verdict: Verdict | None
) -> None:
    seed_everything(0)
    batch = {"x": torch.randn(12, 5), "y": torch.randn(12, 2)}
    told = found(["WIR005"], model(), batch, lambda m, b: F.mse_loss(m(b["x"]), b["y"]), trained)
    assert [one.verdict for one in told] == ([] if verdict is None else [verdict])
