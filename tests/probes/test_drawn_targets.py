"""Dropout at work in frozen parts: teachers, which the loss compares with, and encoders."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything


def net(wide: int = 16, out: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(6, wide), nn.ReLU(), nn.Dropout(0.3), nn.Linear(wide, out))


class Pair(nn.Module):
    """A student and a frozen teacher. keeps: the teacher's mode, whatever the model's."""

    def __init__(self, teacher: nn.Module | None = None, keeps: bool = False) -> None:
        super().__init__()
        self.student, self.head, self.keeps = net(8), nn.Linear(3, 3), keeps
        self.teacher: nn.Module = (teacher or net()).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Pair:
        super().train(mode)
        self.teacher.train(mode and not self.keeps)
        return self


class Soft(Pair):
    """Learns the teacher's probabilities, by a formula that is written out."""

    def forward(self, x: Tensor) -> Tensor:
        wanted = self.teacher(x).softmax(1)
        loss: Tensor = -(wanted * self.student(x).log_softmax(1)).sum(1).mean()
        return loss


class Hard(Pair):
    """Learns the classes that the teacher takes for the likeliest."""

    def forward(self, x: Tensor) -> Tensor:
        return F.cross_entropy(self.student(x), self.teacher(x).argmax(1))


class Reference(Pair):
    """A policy that is preferred to another one's, as in DPO."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            reference = self.teacher(x).log_softmax(1)[:, 0]
        return -F.logsigmoid(self.student(x).log_softmax(1)[:, 0] - reference).mean()


class Outside(Pair):
    """The teacher is none of the model's parts, and what it gives is detached."""

    def __init__(self) -> None:
        super().__init__()
        self.other = [net()]

    def forward(self, x: Tensor) -> Tensor:
        return F.mse_loss(self.student(x), self.other[0](x).detach())


class Attending(Pair):
    """A teacher with attention, whose vectors are learned."""

    def __init__(self) -> None:
        super().__init__(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True))
        self.student = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher(x[:, None])[:, 0]
        return F.mse_loss(self.student(x), wanted)


class Mean(Pair):
    """The teacher is asked four times, and its mean is learned."""

    def forward(self, x: Tensor) -> Tensor:
        wanted = torch.stack([self.teacher(x).softmax(1) for _ in range(4)]).mean(0)
        return F.kl_div(self.student(x).log_softmax(1), wanted, reduction="batchmean")


class Features(Pair):
    """A frozen encoder, whose dropout is a regulariser of the head, also beside what learns."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            seen = self.teacher(x)
        return F.cross_entropy(self.head(seen + self.student(x)), x[:, :3].argmax(1))


class Summed(Pair):
    """What a frozen model says is corrected by one that learns."""

    def forward(self, x: Tensor) -> Tensor:
        return F.cross_entropy(self.teacher(x) + self.student(x), x[:, :3].argmax(1))


class Towers(Pair):
    """A frozen tower, whose vectors are matched."""

    def forward(self, x: Tensor) -> Tensor:
        scores = self.student(x) @ self.teacher(x).T
        return F.cross_entropy(scores, torch.arange(len(x)))


class Noisy(Pair):
    """The same model twice, once without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.student(x).softmax(1)
        return F.kl_div(self.student(x).log_softmax(1), wanted, reduction="batchmean")


def said(model: Pair, follows: bool = False) -> list[Finding]:
    """follows: the teacher is a mean over the steps of the student."""
    batch = {"x": torch.randn(9, 6)}

    def step(_: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(batch["x"])
        loss.backward()
        optimizer.step()
        pairs = zip(model.teacher.parameters(), model.student.parameters(), strict=True)
        for slow, fast in pairs:
            slow.data.lerp_(fast.data, 0.1)
        return loss

    subject = Subject(
        model,
        [batch],
        lambda model, batch: model(batch["x"]),
        lambda _: torch.optim.Adam([*model.student.parameters(), *model.head.parameters()]),
        train_step=step if follows else None,
    )
    return list(check(subject, chosen(["WIR006"])).findings)


@pytest.mark.parametrize("made", [Soft, Hard, Reference, Attending])
def test_a_teacher_that_drops_is_told(made: type[Pair]) -> None:
    seed_everything(0)
    [found] = said(made())
    assert found.verdict is Verdict.WARN
    assert "`teacher` is not trained" in found.message
    assert str(found.site).startswith("teacher")
    assert "test_drawn_targets.py" in str(found.source)


@pytest.mark.parametrize("made", [Features, Summed, Towers, Noisy])
def test_what_is_read_or_trained_may_drop(made: type[Pair]) -> None:
    seed_everything(0)
    assert said(made()) == []


def test_a_teacher_outside_of_the_model_is_told() -> None:
    seed_everything(0)
    found = said(Outside())[-1]
    assert found.verdict is Verdict.WARN
    assert "is no part of the model, is not trained" in found.message


def test_a_teacher_that_stays_in_evaluation_mode_is_well() -> None:
    seed_everything(0)
    assert said(Soft(keeps=True)) == []


def test_noise_that_may_be_on_purpose_is_a_note() -> None:
    seed_everything(0)
    copied = Soft()
    copied.teacher = copy.deepcopy(copied.student).requires_grad_(False)
    assert [f.verdict for f in said(Mean())] == [Verdict.NOTE]
    assert [f.verdict for f in said(copied)] == [Verdict.NOTE]
    assert said(Soft(net(8)), follows=True) == []
