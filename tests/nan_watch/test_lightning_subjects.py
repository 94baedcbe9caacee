"""Subjects of Lightning modules: their schedules' pace, their hooks, and what they see."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from probes.checking import check
from probes.checks.left_in_evaluation import LeftInEvaluation
from probes.checks.other_clock import OtherClock
from probes.errors import RequestError
from probes.loop import Loop
from probes.subject import Subject

if find_spec("lightning") is None:
    pytest.skip("lightning is not installed: pip install '.[dev]'", allow_module_level=True)

import lightning.pytorch as pl

from nan_watch.adapters.lightning import subject_of
from nan_watch.adapters.stretched import FEWEST

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)
        self.calls: list[str] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.calls.append(f"step {self.current_epoch} {batch_idx}")
        return self.line(batch).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def loader(batches: int = 4) -> DataLoader[Tensor]:
    chance = torch.Generator().manual_seed(0)
    return DataLoader(torch.randn(batches * 2, 3, generator=chance), batch_size=2)  # type: ignore[arg-type]


def made(*parts: Any) -> tuple[Subject, Loop]:
    subject = subject_of(parts)
    assert subject is not None
    return subject, Loop(subject)


def rates(loop: Loop, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(loop.optimizer.param_groups[0]["lr"])
        assert loop.schedule is not None
        loop.schedule.step()
    return found


def scheduled(make: Any, **told: Any) -> pl.LightningModule:
    class Scheduled(Line):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": make(optimizer, self), **told},
            }

    return Scheduled()


def cosine(optimizer: Any, _: Any) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)


def test_a_schedule_by_epoch_lasts_as_long_as_a_diagnosis() -> None:
    for given in ((), (trainer(max_epochs=8, accumulate_grad_batches=2),)):
        _, loop = made(*given, scheduled(cosine), loader())
        course = rates(loop, FEWEST)
        assert course[100] == 0.1
        assert min(course) > 0
        assert course == sorted(course, reverse=True)


def test_a_schedule_by_epoch_that_is_spent_long_before_the_training_ends_is_not_stretched() -> None:
    def steep(optimizer: Any, _: Any) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)

    _, loop = made(trainer(max_epochs=100), scheduled(steep), loader())
    assert rates(loop, 9)[3:5] == pytest.approx([0.1, 0.01])


def test_a_schedule_of_the_trainers_own_length_reaches_its_end_and_no_further() -> None:
    def one(optimizer: Any, module: Any) -> Any:
        steps = module.trainer.estimated_stepping_batches
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)

    given = trainer(max_epochs=10)
    _, loop = made(given, scheduled(one, interval="step"), loader(5))
    course = rates(loop, FEWEST + 100)
    assert max(course[:400]) == pytest.approx(0.1)
    assert max(course[600:700]) > 0.03
    assert course[-1] < 1e-3
    _, loop = made(scheduled(one, interval="step", frequency=2), loader(5))
    course = rates(loop, 3)
    assert course[0] == course[1] < course[2]


def test_a_schedule_that_waits_for_a_metric_leaves_the_rate() -> None:
    def waiting(optimizer: Any, _: Any) -> Any:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)

    subject, loop = made(scheduled(waiting, monitor="held out"), loader())
    assert subject.schedule is None
    loop.step(next(iter(subject.batches)))


def test_a_schedule_that_the_module_steps_itself_is_told_the_epoch() -> None:
    class Own(Line):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            plain = torch.optim.lr_scheduler.StepLR(optimizer, 1000)
            return [optimizer], [{"scheduler": plain, "interval": "step"}]

        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            for group in scheduler.optimizer.param_groups:
                group["lr"] = 0.1 + self.current_epoch

    subject, loop = made(Own(), loader())
    for batch in (*subject.batches, *subject.batches):
        loop.step(batch)
    assert loop.optimizer.param_groups[0]["lr"] > 1


class Hooked(Line):
    def on_train_start(self) -> None:
        self.calls.append("start")

    def on_train_epoch_start(self) -> None:
        self.calls.append(f"epoch {self.current_epoch}")

    def on_train_epoch_end(self) -> None:
        self.calls.append(f"end {self.current_epoch} {self.trainer.callback_metrics['no']:.0f}")

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        return batch * 0 + 2

    def on_after_backward(self) -> None:
        assert self.line.bias.grad is not None
        self.line.bias.grad.zero_()

    def configure_gradient_clipping(self, optimizer: Any, *given: Any, **named: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=1e-3, gradient_clip_algorithm="norm")

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        self.calls.append(f"{float(batch[0, 0]):.0f} {outputs['loss'].requires_grad} {batch_idx}")


def test_hooks_that_do_not_stand_around_the_loss_run_with_the_optimizers_step() -> None:
    subject, loop = made(Hooked(), loader(2))
    module: Any = subject.model
    assert subject.train_step is None
    before = module.line.weight.detach().clone(), module.line.bias.detach().clone()
    for batch in (*subject.batches, *subject.batches):
        loop.step(batch)
    assert module.calls[:2] == ["start", "epoch 0"]
    assert module.calls[2:] == [
        *("step 0 0", "2 False 0", "step 0 1", "2 False 1", "end 0 nan", "epoch 1"),
        *("step 1 0", "2 False 0", "step 1 1", "2 False 1", "end 1 nan", "epoch 2"),
    ]
    assert torch.equal(before[1], module.line.bias)
    moved = float((before[0] - module.line.weight).norm())
    assert moved == pytest.approx(4 * 0.1 * 1e-3, rel=1e-2)


def test_hooks_around_the_loss_make_the_step_the_modules_own() -> None:
    class Warm(Line):
        def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> int | None:
            return -1 if batch_idx == 1 else None

        def backward(self, loss: Tensor) -> None:
            (loss * 2).backward()

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
            for group in optimizer.param_groups:
                group["lr"] = 0.5
            optimizer.step(closure=closure)

    subject, loop = made(Warm(), loader(2))
    module: Any = subject.model
    assert subject.train_step is not None
    first, second = subject.batches
    loss = module.line(first).square().mean()
    (grad,) = torch.autograd.grad(loss, module.line.weight)
    wanted = module.line.weight.detach() - 0.5 * 2 * grad
    assert torch.equal(loop.step(first), loss.detach())
    torch.testing.assert_close(module.line.weight.detach(), wanted)
    loop.step(second)  # is skipped
    torch.testing.assert_close(module.line.weight.detach(), wanted)
    assert module.calls == ["step 0 0"]


def test_the_users_own_callbacks_run_and_the_frameworks_do_not() -> None:
    class Halves(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *given: Any) -> None:
            pl_module.calls.append(f"callback {trainer.global_step}")

    class Odd(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            raise RuntimeError("no such thing here")

    averages = pl.callbacks.StochasticWeightAveraging(0.1)
    given = trainer(max_epochs=1000, callbacks=[Halves(), Odd(), averages])
    subject, loop = made(given, Line(), loader(1))
    loop.step(next(iter(subject.batches)))
    assert subject.model.calls == ["step 0 0", "callback 1"]


def test_a_callback_that_leaves_the_model_in_evaluation_mode_is_told() -> None:
    class Draws(pl.Callback):
        def __init__(self, back: bool) -> None:
            self.back = back

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.eval()
            if self.back:
                pl_module.train()

    class Dropped(Line):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1))  # type: ignore[assignment]

    for back in (True, False):
        given = trainer(max_epochs=5, callbacks=[Draws(back)])
        subject, _ = made(given, Dropped(), loader())
        found = check(subject, [LeftInEvaluation()]).findings
        assert [(f.code, f.site) for f in found] == [("WIR051", "model")][: not back]


def test_a_schedule_of_steps_that_is_stepped_by_epoch_is_told() -> None:
    def one(optimizer: Any, module: Any) -> Any:
        steps = module.trainer.estimated_stepping_batches
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)

    for interval in ("step", "epoch"):
        subject, _ = made(trainer(max_epochs=10), scheduled(one, interval=interval), loader(20))
        found = check(subject, [OtherClock()]).findings
        assert [f.code for f in found] == ["WIR050"][: interval == "epoch"]


def test_gradients_are_clipped_by_value_where_the_trainer_says_so() -> None:
    given = trainer(max_epochs=1, gradient_clip_val=1e-4, gradient_clip_algorithm="value")
    subject, loop = made(given, Line(), loader(1))
    assert subject.clip_norm is None
    loop.step(next(iter(subject.batches)) * 100)
    grads = [p.grad for p in subject.model.parameters() if p.grad is not None]
    assert max(float(g.abs().max()) for g in grads) == pytest.approx(1e-4)


def test_the_trainers_precision_is_that_of_the_loss() -> None:
    class Narrow(Line):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.calls.append(str(self.line(batch).dtype))
            return super().training_step(batch, batch_idx)

    subject, _ = made(trainer(max_epochs=1, precision="bf16-mixed"), Narrow(), loader(1))
    subject.loss(subject.model, next(iter(subject.batches)))
    assert subject.model.calls[0] == "torch.bfloat16"  # type: ignore[index]


def test_steps_by_hand_count_their_batches_and_step_their_schedules() -> None:
    class ByHand(Line):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
            optimizer = self.optimizers()
            self.manual_backward(super().training_step(batch, batch_idx))
            if (batch_idx + 1) % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()

        def on_train_epoch_end(self) -> None:
            self.lr_schedulers().step()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    subject, loop = made(ByHand(), loader(4))
    with pytest.raises(RequestError, match="steps its optimizers by hand"):
        subject.loss(subject.model, next(iter(subject.batches)))
    for batch in subject.batches:
        loop.step(batch)
    module: Any = subject.model
    assert [*module.calls] == [f"step 0 {index}" for index in range(4)]
    assert module._whynan_course.steps == 2
    assert loop.optimizer.param_groups[0]["lr"] == 0.05


def test_a_copy_has_a_course_of_its_own_and_no_trainer() -> None:
    from probes.copying import copy_of

    subject, loop = made(Line(), loader(1))
    copied: Any = copy_of(subject.model)
    loop.step(next(iter(subject.batches)))
    module: Any = subject.model
    assert (module.global_step, copied._whynan_course.steps, module._trainer) == (0, 0, None)
    assert module._whynan_course.steps == 1
