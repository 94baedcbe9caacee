"""Where it was first seen: culprit before victim, and healthy infinities never blamed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch
from probes.finding import Finding


class Calls(nn.Module):
    """A function of the steps taken as a module of its own."""

    def __init__(self, function: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.function, self.step = function, -1

    def forward(self, x: Tensor) -> Tensor:
        self.step += 1
        return self.function(x, self.step)


def found(
    middle: Callable[[Tensor, int], Tensor],
    loss: Callable[[Tensor, int], Tensor] = lambda y, step: y.square().mean(),
    *,
    told: bool = True,
    steps: int = 6,
    tier: Any = "sites",
) -> list[Finding]:
    """The findings on a net with the function in its middle, the poisoned steps dropped."""
    torch.manual_seed(0)
    parts = {"first": nn.Linear(3, 4), "middle": Calls(middle), "last": nn.Linear(4, 2)}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with NanWatch(model, optimizer, tier, on_poison="skip") as watch:
        for step in range(steps):
            optimizer.zero_grad()
            value = loss(model(torch.ones(2, 3)), step)
            watch.backward(value) if told else value.backward()
            optimizer.step()
    return list(watch.findings)


def at(step: int, sick: Callable[[Tensor], Tensor]) -> Callable[[Tensor, int], Tensor]:
    return lambda x, now: sick(x) if now == step else x


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("sick", "kind"),
    [
        (lambda x: (x - x) / (x - x), "NaN"),
        (lambda x: x / 0.0, "inf"),
        (lambda x: (x.abs() * 1e38) ** 2, "inf"),
        (lambda x: (x * 0).log(), "-inf"),
    ],
    ids=["zero over zero", "over zero", "overflow", "log of zero"],
)
def test_a_birth_in_forward(sick: Callable[[Tensor], Tensor], kind: str, told: bool) -> None:
    (finding,) = found(at(4, sick), told=told)
    assert (finding.code, finding.site, finding.phase) == ("NAN000", "middle", "forward")
    assert finding.step == 4
    assert f"`middle` is the first whose output holds {kind}" in finding.message
    assert "the output seen before it, `first`'s, is finite" in finding.message
    past = [each for each in finding.evidence if each.what == "largest |output| of middle"]
    assert [each.step for each in past] == [4, 0, 1, 2, 3]
    assert all(math.isfinite(each.value) for each in past[1:])  # type: ignore[arg-type]


class Masked(nn.Module):
    """Self-attention over three positions; a function of the steps stands behind the mask."""

    def __init__(self, behind: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.scores = nn.Linear(3, 3)
        self.mask = Calls(lambda x, _: x.masked_fill(torch.eye(3).bool(), -math.inf))
        self.behind = Calls(behind)
        self.softmax = nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.softmax(self.behind(self.mask(self.scores(x)))) @ x


def trained(model: nn.Module, steps: int) -> list[Finding]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        for _ in range(steps):
            optimizer.zero_grad()
            watch.backward(model(torch.ones(3, 3)).sum())
            optimizer.step()
    return list(watch.findings)


def test_a_healthy_mask_is_history_and_no_alarm() -> None:
    assert trained(Masked(lambda x, _: x), 4) == []


@pytest.mark.parametrize("step", [0, 2])
def test_a_mask_before_the_birth_is_told_but_not_blamed(step: int) -> None:
    (finding,) = trained(Masked(at(step, lambda w: w - math.inf)), 4)
    assert (finding.site, finding.phase, finding.step) == ("softmax", "forward", step)
    told = [each.what for each in finding.evidence]
    assert "-inf in the output of mask, as in healthy steps or masks" in told


def test_a_birth_in_the_loss_code() -> None:
    (finding,) = found(lambda x, _: x, lambda y, step: y.mean() * (math.inf if step == 3 else 1))
    assert (finding.site, finding.phase, finding.step) == ("<loss>", "forward", 3)
    assert "though every output of the model is finite" in finding.message


@pytest.mark.parametrize("told", [True, False])
def test_a_birth_in_the_backward_of_the_loss_code(told: bool) -> None:
    def loss(y: Tensor, step: int) -> Tensor:
        return (y - y.detach()).abs().sqrt().sum() if step == 3 else y.mean()

    (finding,) = found(lambda x, _: x, loss, told=told)
    assert (finding.site, finding.phase, finding.step) == ("<loss>", "backward", 3)


def test_a_birth_in_the_backward_of_the_model() -> None:
    (finding,) = found(at(3, lambda x: (x - x.detach()).abs().sqrt() + x.detach()))
    assert (finding.site, finding.phase, finding.step) == ("first", "backward", 3)
    assert "the gradient seen before it, `middle`'s, is finite" in finding.message


def test_a_gradient_alone() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        watch.backward(model(torch.ones(1, 2)).sum())
        model.weight.grad[1, 0] = math.nan  # type: ignore[index]
        optimizer.step()
    (finding,) = watch.findings
    assert (finding.site, finding.phase, finding.where) == ("weight", "backward", {"row": 1})
    assert "though the gradient of every output is finite" in finding.message


def test_weights_that_were_loaded_poisoned_name_their_row_and_clear_the_run(tagger: Any) -> None:
    with torch.no_grad():
        tagger.embedding.weight[3, 2] = math.nan
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.01)
    with NanWatch(tagger, optimizer, on_poison="skip") as watch:
        tagger(torch.tensor([[1, 2]])).sum().backward()  # row 3 is not even read
        optimizer.step()
    (finding,) = watch.findings
    assert (finding.site, finding.phase, finding.step) == ("embedding.weight", None, 0)
    assert finding.where == {"row": 3, "column": 2}
    assert "`embedding.weight` (row 3) held numbers that are not finite" in finding.message
    assert "no step of this run did it" in finding.message


def test_weights_that_an_update_poisoned_are_the_culprit_and_not_their_output(
    tagger: Any,
) -> None:
    class Reckless(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)
            self.count = getattr(self, "count", -1) + 1
            if self.count == 2:
                tagger.head.weight.data[1] = math.inf

    optimizer = Reckless(tagger.parameters(), lr=0.01)
    with NanWatch(tagger, optimizer, on_poison="skip") as watch:
        for _ in range(5):
            optimizer.zero_grad()
            watch.backward(tagger(torch.tensor([[1, 2]])).square().mean())
            optimizer.step()
    (finding,) = watch.findings
    assert (finding.site, finding.phase, finding.step) == ("head.weight", "update", 2)
    assert finding.where["row"] == 1


def test_an_lstm_cell_is_named_with_its_part() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.calls = nn.LSTMCell(2, 2), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1  # so that no replay finds it
            state = self.cell(x)
            for step in range(3):
                x = x * (math.nan if (step, self.calls) == (1, 1) else 1.0)
                state = self.cell(x, state)
            return state[0]

    model = Decoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        watch.backward(model(torch.ones(1, 2)).sum())
        optimizer.step()
    (finding,) = watch.findings
    assert (finding.site, finding.phase) == ("cell[0]", "forward")


def test_a_causal_mask_among_the_buffers_is_no_poison() -> None:
    (finding,) = found(lambda x, _: x, lambda y, step: y.mean() * math.nan, steps=1)
    assert finding.site == "<loss>"
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        watch.backward(model(torch.ones(1, 2)).sum() * math.nan)
        optimizer.step()
    assert watch.findings[0].site == "<loss>"


def test_a_late_loss_that_is_not_finite_belongs_to_its_own_step(tagger: Any) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.01)

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        loss = tagger(torch.tensor([[1, 2]])).square().mean()
        loss.backward()
        optimizer.step()
        return loss * (math.inf if number == 2 else 1.0)

    with NanWatch(tagger, optimizer, on_poison="skip") as watch:
        for number in range(5):
            watch.step(lambda number=number: step(number))
    (finding,) = watch.findings
    assert (finding.site, finding.phase, finding.step) == ("<loss>", "forward", 2)
    assert "though every output of the model is finite" in finding.message


def test_infinite_buffers_such_as_a_running_minimum_are_healthy(tagger: Any) -> None:
    tagger.register_buffer("smallest", torch.full((3,), math.inf))
    assert trained_quietly(tagger) == ()


def test_an_update_too_large_for_the_norms_float_is_no_alarm(tagger: Any) -> None:
    with torch.no_grad():
        tagger.head.weight.fill_(1e25)
    assert trained_quietly(tagger) == ()


def trained_quietly(model: nn.Module) -> tuple[Finding, ...]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with NanWatch(model, optimizer) as watch:
        for _ in range(8):
            optimizer.zero_grad()
            model(torch.tensor([[1, 2]])).tanh().mean().backward()
            optimizer.step()
    return tuple(each for each in watch.findings if each.code == "NAN000")


def test_a_second_time_is_the_same_story_and_its_past_is_healthy() -> None:
    (finding,) = found(lambda x, now: x / 0.0 if now in (2, 4) else x, steps=6)
    assert finding.step == 2
    assert finding.evidence[-1].value == 2
