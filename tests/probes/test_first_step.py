from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from probes import Subject
from probes.errors import RequestError
from probes.first_step import check_first_step


def make() -> Subject:
    torch.manual_seed(0)
    return Subject(
        nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)),
        [{"x": torch.randn(6, 3)}],
        lambda model, batch: model(batch["x"]).square().mean(),
        lambda model: torch.optim.Adam(model.parameters()),
        clip_norm=1.0,
    )


def test_a_sound_subject_is_measured_and_left_as_it_was() -> None:
    subject = make()
    before = [parameter.clone() for parameter in subject.model.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = check_first_step(subject)
    assert (first.samples, first.parameters) == (6, 21)
    assert first.shapes == {"x": (6, 3)}
    assert first.loss > 0
    assert all(map(torch.equal, before, subject.model.parameters()))
    assert torch.equal(states[0], torch.get_rng_state())
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]


def test_the_loss_of_a_step_of_the_users_own_is_the_one_it_returned() -> None:
    subject = make()

    def step(model, batch, optimizer):
        loss = model.eval()(batch["x"]).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    first = check_first_step(replace(subject, train_step=step, loss=None))
    want = subject.model.eval()(subject.batches[0]["x"]).square().mean()
    assert first.loss == pytest.approx(want.item())


class Unlearnable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()


def no_grad_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(batch["x"]).mean()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batches": []}, "`Subject.batches` holds no batch: give at least one"),
        ({"batches": 3}, "`Subject.batches` is a int, which cannot be iterated over"),
        ({"model": print}, "`Subject.model` is a builtin_function_or_method, but an nn.Module"),
        (
            {"loss": lambda model, batch: model(batch["x"])},
            "`Subject.loss` returned a tensor of shape (6, 1), but a scalar was expected: ",
        ),
        (
            {"loss": lambda model, batch: model(batch["x"]).mean().item()},
            "`Subject.loss` returned a float, but a scalar tensor was expected",
        ),
        ({"loss": no_grad_loss}, "`Subject.loss` returned a scalar that needs no gradient"),
        (
            {"model": nn.Linear(3, 1).to("meta")},
            "`x` of the first batch is on cpu, but the model's parameters are on meta",
        ),
        ({"optimizer": lambda model: None}, "`Subject.optimizer` returned a NoneType"),
        (
            {"optimizer": lambda model: torch.optim.Adam([])},
            "`Subject.optimizer` raised ValueError: optimizer got an empty parameter list at ",
        ),
        (
            {"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)},
            "`Subject.optimizer` is an object `SGD`, but a function of the model was expected",
        ),
        ({"loss": nn.MSELoss()}, "`Subject.loss` is a `MSELoss`, which does not run the model"),
        (
            {"loss": lambda model, batch: model(batch["y"])},
            f"`Subject.loss` raised KeyError: 'y' at {Path(__file__).name}:",
        ),
        ({"loss": lambda model, batch: model(batch["y"])}, "The batch holds `x`."),
        (
            {"batches": ({"x": 1 / zero} for zero in [0])},
            "`Subject.batches` raised ZeroDivisionError: division by zero at ",
        ),
        ({"schedule": lambda optimizer: 1 / 0}, "`Subject.schedule` raised ZeroDivisionError"),
        (
            {"train_step": lambda model, batch, optimizer: None},
            "`Subject.train_step` returned a NoneType, but a scalar tensor was expected",
        ),
        (
            {"train_step": lambda model, batch, optimizer: model(batch["x"])},
            "`Subject.train_step` returned a tensor of shape (6, 1), but a scalar was expected",
        ),
        (
            {"train_step": lambda model, batch, optimizer: model(batch["y"])},
            "`Subject.train_step` raised KeyError: 'y'",
        ),
        (
            {"loss": lambda model, batch: Unlearnable.apply(model(batch["x"])).sum()},
            "the first step, after its loss, raised NotImplementedError",
        ),
    ],
)
def test_what_is_wrong_is_a_sentence(
    change: dict[str, object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    with pytest.raises(RequestError) as caught:
        check_first_step(replace(make(), **change))
    assert sentence in str(caught.value)
