"""Losses that write into parameters and buffers: once, as from the first batch, or each time."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
WIDTH = 6


class Scaled(nn.Module):
    """Begins with what the first batch says, in parameters, or in buffers; `often`: each batch."""

    def __init__(self, learned: bool = True, often: bool = False) -> None:
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(WIDTH)), torch.zeros(WIDTH)
        self.log_scale = nn.Parameter(self.log_scale)
        if not learned:
            shift, log_scale = self.shift.data, self.log_scale.data
            del self.shift, self.log_scale
            self.register_buffer("shift", shift)
            self.register_buffer("log_scale", log_scale)
        self.often, self.ready = often, False

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.ready:
            self.shift.data.copy_(-x.data.mean(0))
            self.log_scale.data.copy_(-x.data.std(0).log())
            self.ready = not self.often
        return (x + self.shift) * self.log_scale.exp()


class Normalised(nn.Linear):
    """Each of its rows is brought to a length of 1 before it is used."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.copy_(F.normalize(self.weight, dim=1))
        return super().forward(x)


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.data.norm(dim=1, keepdim=True)  # cut


def layers(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, WIDTH), *between, nn.Tanh(), nn.Linear(WIDTH, 3))


def entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["labels"])


class Averaged(nn.Module):
    """A branch, and its moving average, which is brought up to date as the loss runs.

    in_place: in its own memory, without gradients.
    """

    def __init__(self, *last: nn.Module, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place
        self.online = nn.Sequential(nn.Linear(5, WIDTH), *last)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        given: Tensor = self.online(x)
        return given

    def aim(self, x: Tensor) -> Tensor:
        for old, new in zip(self.target.parameters(), self.online.parameters(), strict=True):
            if self.in_place:
                with torch.no_grad():
                    old.mul_(0.9).add_(new, alpha=0.1)
            else:
                old.data = 0.9 * old.data + 0.1 * new.data
        with torch.no_grad():
            aim: Tensor = self.target(x)
        return aim


def contrast(model: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(model, Averaged)
    x = batch["x"]
    return F.cross_entropy(model(x) @ model.aim(x.flip(1)).T, torch.arange(len(x)))


def told(model: nn.Module, loss: Callable[[nn.Module, Batch], Tensor]) -> list[str]:
    seed_everything(0)
    batch = {"x": torch.randn(12, 5), "labels": torch.arange(12) % 3}
    subject = Subject(model, [batch], loss, lambda m: torch.optim.Adam(learning(m), lr=1e-2))
    before = {name: each.clone() for name, each in model.state_dict().items()}
    findings = check(subject, chosen(["WIR011"])).findings
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert all(each.is_leaf for each in model.parameters())
    return [one.message for one in findings if one.verdict.rank > Verdict.NOTE.rank]


def learning(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize(
    ("made", "loss"),
    [
        (lambda: layers(Scaled(), nn.Linear(WIDTH, WIDTH), Scaled()), entropy),
        (lambda: layers(Scaled(learned=False)), entropy),
        (lambda: layers(Normalised(WIDTH, WIDTH)), entropy),
        (Averaged, contrast),
        (lambda: Averaged(in_place=True), contrast),
    ],
)
def test_what_the_loss_writes_is_no_wrong_gradient(
    made: Callable[[], nn.Module], loss: Callable[[nn.Module, Batch], Tensor]
) -> None:
    assert told(made(), loss) == []


@pytest.mark.parametrize(
    ("made", "loss"),
    [
        (lambda: layers(Scaled(), nn.Linear(WIDTH, WIDTH), Cut()), entropy),
        (lambda: layers(Normalised(WIDTH, WIDTH), Cut()), entropy),
        (lambda: Averaged(nn.Linear(WIDTH, WIDTH), Cut()), contrast),
        (lambda: Averaged(nn.Linear(WIDTH, WIDTH), Cut(), in_place=True), contrast),
    ],
)
def test_a_gradient_that_is_cut_is_told_beside_what_the_loss_writes(
    made: Callable[[], nn.Module], loss: Callable[[nn.Module, Batch], Tensor]
) -> None:
    (message,) = told(made(), loss)
    assert "is not the loss's" in message


def test_a_parameter_that_each_pass_writes_anew_is_told() -> None:
    (message,) = told(layers(Scaled(often=True)), entropy)
    assert message.startswith("each pass writes `1.shift` and 1 more anew, whatever stands there")
