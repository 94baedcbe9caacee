from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from probes.numpy_state import NumpyState
from probes.replay import Snapshot, held_back, replay


class Noisy(nn.Module):
    """Draws from three generators, has a BatchNorm and replaces a buffer of its own."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        noise = random.random() + float(np.random.rand())
        return self.drop(self.norm(self.linear(x))) * noise


def noisy() -> tuple[Noisy, Callable[[], Tensor]]:
    torch.manual_seed(0)
    model, x = Noisy(), torch.randn(8, 4)

    def step() -> Tensor:
        loss = model(x).square().sum()
        loss.backward()
        return loss

    return model, step


def state(model: nn.Module) -> list[Tensor]:
    held = [t.detach().clone() for t in (*model.parameters(), *model.buffers())]
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [*held, *grads, torch.get_rng_state(), torch.tensor([random.getstate()[1][-1]])]


def test_a_replay_gives_the_step_again_and_changes_nothing() -> None:
    model, step = noisy()
    snapshot = Snapshot.take(model)
    loss = step().detach()
    first = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    kept = [p.grad for p in model.parameters()]
    before, numpy_before = state(model), np.random.get_state()[2]
    again = replay(step, model, snapshot)
    assert torch.equal(again.loss, loss)
    for name, grad in first.items():
        found = again.grads[name]
        assert found is not None
        assert torch.equal(found, grad)
    assert all(torch.equal(a, b) for a, b in zip(state(model), before, strict=True))
    assert np.random.get_state()[2] == numpy_before
    assert all(p.grad is grad for p, grad in zip(model.parameters(), kept, strict=True))
    assert model.count == 1
    assert again.same_as(replay(step, model, snapshot))
    assert not again.symptoms()


def test_a_replay_that_moves_is_told() -> None:
    model, _ = noisy()
    x = torch.ones(8, 4)

    def step() -> Tensor:
        x.add_(1)  # changed by the step itself, and no part of what is kept
        loss = model(x + torch.arange(8.0)[:, None]).square().sum()
        loss.backward()
        return loss

    snapshot = Snapshot.take(model)
    model.drop.p = 0
    assert not replay(step, model, snapshot).same_as(replay(step, model, snapshot))


def test_modes_and_parameters_start_from_the_snapshot() -> None:
    model, step = noisy()
    snapshot = Snapshot.take(model, parameters=True)
    loss = step().detach()
    model.drop.eval()
    with torch.no_grad():
        model.linear.weight.fill_(torch.nan)
    assert torch.equal(replay(step, model, snapshot).loss, loss)
    assert not model.drop.training
    assert model.linear.weight.isnan().all(), "given back as it was"


def test_everything_is_given_back_where_the_step_raises() -> None:
    model, step = noisy()
    snapshot = Snapshot.take(model)
    step()
    before = state(model)

    def broken() -> Tensor:
        step()
        with torch.no_grad():
            model.linear.weight.zero_()
        model.eval()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        replay(broken, model, snapshot)
    assert all(torch.equal(a, b) for a, b in zip(state(model), before, strict=True))
    assert all(module.training for module in model.modules())


def test_a_graph_that_saved_buffers_and_weights_can_still_go_backward() -> None:
    model, _ = noisy()
    snapshot = Snapshot.take(model, parameters=True)
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randn(8, 4, requires_grad=True)
    loss = model(x).sum()

    def step() -> Tensor:
        again = model(x.detach()).square().sum()
        again.backward()
        optimizer.step()
        return again

    replay(step, model, snapshot)
    loss.backward()
    assert x.grad is not None


def test_it_runs_under_a_mode_and_with_gradients_wherever_it_is_called() -> None:
    class Count(TorchDispatchMode):
        ops = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.ops += 1
            return func(*args, **(kwargs or {}))

    model, step = noisy()
    mode = Count()
    with torch.no_grad():
        replay(step, model, Snapshot.take(model), under=[mode])
    assert mode.ops > 10


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_within_the_step_is_held_back(
    make: Callable[..., torch.optim.Optimizer],
) -> None:
    model, backward = noisy()
    optimizer = make(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)

    def step() -> Tensor:
        loss = backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    step()
    held = vars(optimizer)["step"]
    snapshot, before, kept = Snapshot.take(model), state(model), dict(optimizer.state)
    again = replay(step, model, snapshot, optimizers=[optimizer])
    assert all(grad is not None for grad in again.grads.values()), "seen before zero_grad"
    assert all(torch.equal(a, b) for a, b in zip(state(model), before, strict=True))
    assert dict(optimizer.state) == kept
    assert vars(optimizer)["step"] is held, "the schedule's own is back"
    schedule.step()


def test_a_held_optimizer_runs_its_closure_and_keeps_its_learning_rate() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.5)

    def closure() -> Tensor:
        loss = weight.square().sum()
        loss.backward()
        return loss

    with held_back(optimizer) as seen:
        assert optimizer.step(closure) == 2
        optimizer.param_groups[0]["lr"] = 9.0
    assert torch.equal(weight, torch.ones(2))
    assert seen[0][1] is weight.grad
    assert optimizer.param_groups[0]["lr"] == 0.5
    optimizer.step()
    assert torch.equal(weight, torch.zeros(2) - 0.0)


def test_sparse_gradients_and_missing_ones_are_compared() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(5, 2, sparse=True), "unused": nn.Linear(2, 2)})

    def step() -> Tensor:
        loss: Tensor = model["table"](torch.tensor([1, 3])).log().sum()
        loss.backward()
        return loss

    snapshot = Snapshot.take(model)
    torch.nn.init.constant_(model["table"].weight, 0.0)
    once = replay(step, model, snapshot)
    assert once.same_as(replay(step, model, snapshot))
    assert once.grads["unused.weight"] is None
    assert set(once.symptoms()) == {"<loss>", "table.weight"}


def test_numpys_state_is_the_one_of_now_however_the_generator_was_moved() -> None:
    def same(one: Any, two: Any) -> bool:
        return all(np.array_equal(left, right) for left, right in zip(one, two, strict=True))

    kept = NumpyState()
    before = np.random.get_state()
    moves: list[Callable[[], object]] = [
        lambda: None,
        np.random.rand,
        lambda: None,
        np.random.randn,  # makes two, and keeps one
        np.random.randn,
        np.random.randn,
        lambda: np.random.seed(3),
        lambda: np.random.set_state(before),
        lambda: np.random.shuffle([1, 2, 3]),
    ]
    home = np.random.get_bit_generator()
    try:
        for move in moves:
            move()
            assert same(kept.take(), np.random.get_state())
        np.random.set_bit_generator(np.random.MT19937(5))
        assert same(kept.take(), np.random.get_state())
        assert same(kept.take(), np.random.get_state())
    finally:
        np.random.set_bit_generator(home)
        np.random.set_state(before)


class HookedOnce(nn.Module):
    """Puts a hook on its layer in the first call and notes it, as models that record outputs do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.hooked = False
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.hooked:
            self.linear.register_forward_hook(lambda *called: self.seen.append(called[2]))
            self.hooked = True
        self.seen.clear()
        return self.linear(x).sum() + len(self.seen)  # type: ignore[no-any-return]


def test_a_hook_that_a_step_puts_on_is_taken_off_with_the_mark_that_it_is_on() -> None:
    model, x = HookedOnce(), torch.ones(2, 4)
    own = model.linear.register_forward_hook(lambda *_: None)
    snapshot = Snapshot.take(model)
    losses = [replay(lambda: model(x), model, snapshot).loss for _ in range(3)]
    assert losses[0] == losses[1] == losses[2]
    assert not model.hooked
    assert list(model.linear._forward_hooks) == [own.id]
    model(x)
    replay(lambda: model(x), model, snapshot)
    assert model.hooked
    assert len(model.linear._forward_hooks) == 2
