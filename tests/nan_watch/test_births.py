"""Births of every kind, each with its healthy twin: op, node, phase and line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nan_watch.origin.find import Origin, find_origin
from probes.replay import Snapshot

Make = Callable[[bool], tuple[nn.Module, Callable[[], Tensor]]]


def line(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    [number] = [i for i, text in enumerate(lines, 1) if text.endswith(f"# HERE {mark}")]
    return f"{__file__}:{number}"


def origin_of(make: Make, sick: bool, **known: Any) -> Origin | None:
    torch.manual_seed(0)
    model, loss = make(sick)

    def step() -> Tensor:
        value = loss()
        value.backward()
        return value

    return find_origin(model, step, Snapshot.take(model), **known)


class Weight(nn.Module):
    """A parameter of its own."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values))


def normalised(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(0.0, 0.0) if sick else Weight(3.0, 4.0)
    return model, lambda: (model.weight / model.weight.norm()).sum()  # HERE normalised


def variance(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(2.0) if sick else Weight(2.0, 3.0)
    return model, lambda: model.weight.var()  # HERE variance


def overflow(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(100.0, 1.0) if sick else Weight(3.0, 1.0)

    def loss() -> Tensor:
        e = torch.exp(model.weight)  # HERE overflow
        return (e / e.sum()).sum()

    return model, loss


def hidden(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(0.0, 2.0) if sick else Weight(1.0, 2.0)

    def loss() -> Tensor:
        w = model.weight
        return torch.where(w > 0, 1 / w, torch.zeros(())).sum()  # HERE hidden

    return model, loss


def arc(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(1.0, 0.5) if sick else Weight(0.9, 0.5)
    return model, lambda: torch.acos(model.weight).sum()  # HERE arc


def power(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(-1.0, 0.5) if sick else Weight(1.0, 0.5)
    return model, lambda: model.weight.pow(0.5).sum()  # HERE power


def logsumexp(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(1.0, 2.0)
    hide = torch.tensor([[True, True], [True, False]] if sick else [[False, True], [True, False]])

    def loss() -> Tensor:
        rows = model.weight.expand(2, 2).masked_fill(hide, -torch.inf)
        total = rows.logsumexp(-1)  # HERE logsumexp
        return total.sum()

    return model, loss


def by_hand(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    """The same, written out, and beside a row that is healthy."""
    model = Weight(1.0, 2.0)
    hide = torch.tensor([[True, True], [True, False]] if sick else [[False, True], [True, False]])

    def loss() -> Tensor:
        rows = model.weight.expand(2, 2).masked_fill(hide, -torch.inf)
        largest = rows.max(-1, keepdim=True).values
        return (rows - largest).exp().sum()  # HERE by_hand

    return model, loss


def half(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    x = torch.ones(3, 4) * (3e4 if sick else 1.0)
    nn.init.ones_(model[0].weight)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return model(x).float().square().mean()  # HERE half

    return model, loss


class Reciprocal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad / x  # HERE custom


def custom(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(0.0, 1.0) if sick else Weight(2.0, 1.0)
    return model, lambda: Reciprocal.apply(model.weight).sum()


def in_place(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(100.0, 1.0) if sick else Weight(3.0, 1.0)

    def loss() -> Tensor:
        x = model.weight.clone()
        x[:1].exp_()  # HERE in_place
        return (x - x).sum()

    return model, loss


def empty_mean(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(1.0, 2.0)
    limit = 5.0 if sick else 1.5
    return model, lambda: model.weight[model.weight > limit].mean()  # HERE empty_mean


def checkpointed(reentrant: bool) -> Make:
    def make(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
        model = Weight(0.0, 1.0) if sick else Weight(2.0, 1.0)

        def body(w: Tensor) -> Tensor:
            root = w.sqrt()  # HERE checkpointed
            return root * 3

        return model, lambda: checkpoint(body, model.weight, use_reentrant=reentrant).sum()

    return make


def through_item(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(0.0, 2.0) if sick else Weight(1.0, 2.0)

    def loss() -> Tensor:
        scale = (model.weight.detach() / model.weight.detach()).sum().item()  # HERE item
        return model.weight.sum() * scale

    return model, loss


def picked(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(1.0, 2.0)
    label = torch.tensor([1 if sick else 0])

    def loss() -> Tensor:
        logits = model.weight.masked_fill(torch.tensor([False, True]), -torch.inf)
        return nn.functional.nll_loss(logits.log_softmax(-1)[None], label)  # HERE picked

    return model, loss


def onehot(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Weight(800.0 if sick else 1.0, 0.0)

    def loss() -> Tensor:
        p = model.weight.softmax(-1)
        return -(torch.tensor([1.0, 0.0]) * p.log()).sum()  # HERE onehot

    return model, loss


def twice(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A gradient penalty: the derivative is part of the loss."""
    model = Weight(0.0, 1.0) if sick else Weight(2.0, 1.0)

    def loss() -> Tensor:
        out = model.weight.sqrt().sum()  # HERE twice
        (slope,) = torch.autograd.grad(out, model.weight, create_graph=True)
        return slope.square().sum()

    return model, loss


TABLE = [
    (normalised, "aten.div", None, "forward"),
    (variance, "aten.var", None, "forward"),
    (overflow, "aten.exp", None, "forward"),
    (hidden, "aten.mul", "ReciprocalBackward0", "backward"),
    (arc, "aten.rsqrt", "AcosBackward0", "backward"),
    (power, "aten.pow", None, "forward"),
    (logsumexp, "aten.logsumexp", None, "forward"),
    (by_hand, "aten.sub", None, "forward"),
    (half, "aten.addmm", None, "forward"),
    (custom, "aten.div", "ReciprocalBackward", "backward"),
    (in_place, "aten.exp_", None, "forward"),
    (empty_mean, "aten.mean", None, "forward"),
    (through_item, "aten.div", None, "forward"),
    (picked, "aten.nll_loss_forward", None, "forward"),
    (onehot, "aten.log", None, "forward"),
    (twice, "aten.div", "SqrtBackward0", "backward"),
]
MARKS = {"through_item": "item"}


@pytest.mark.parametrize(("make", "op", "node", "phase"), TABLE)
def test_birth(make: Make, op: str, node: str | None, phase: str) -> None:
    found = origin_of(make, sick=True)
    assert found is not None
    assert (found.op, found.node, found.phase) == (op, node, phase), found.story()
    assert found.source == line(MARKS.get(make.__name__, make.__name__)), found.story()
    assert found.repeats == "to the bit"
    assert found.kernels == "the same"
    assert origin_of(make, sick=False) is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_birth_in_a_checkpoint_has_its_line(reentrant: bool) -> None:
    found = origin_of(checkpointed(reentrant), sick=True)
    assert found is not None
    assert (found.node, found.phase) == ("SqrtBackward0", "backward"), found.story()
    assert found.source == line("checkpointed")
    assert origin_of(checkpointed(reentrant), sick=False) is None


def test_what_was_hidden_in_the_forward_pass_is_told() -> None:
    found = origin_of(hidden, sick=True)
    assert found is not None
    assert found.hidden is not None
    assert (found.hidden.op, found.hidden.phase) == ("aten.reciprocal", "forward")
    assert found.story()[0].startswith("hidden before: forward: aten.reciprocal")


def test_a_birth_in_half_precision_has_its_module_and_its_largest_input() -> None:
    found = origin_of(half, sick=True)
    assert found is not None
    assert found.site == "0"
    assert found.largest_finite_input == 3e4
    assert found.held.plus == found.total == 12


def test_attention_of_torch_and_its_functions() -> None:
    """The line is the user's, and the operator the softmax inside F.multi_head_attention."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor, hide: Tensor) -> Tensor:
            out, _ = self.attention(x, x, x, key_padding_mask=hide)  # HERE attention
            return out

    def make(sick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
        model, x = Model(), torch.randn(3, 4, 8)
        hide = torch.zeros(3, 4, dtype=torch.bool)
        hide[1, 1:] = True
        hide[2] = sick
        known.update(batch={"x": x, "hide": hide})
        return model, lambda: model(x, hide).sum()

    known: dict[str, Any] = {}
    torch.manual_seed(0)
    make(True)
    found = origin_of(make, True, **known)
    assert found is not None
    assert (found.op, found.site) == ("aten._softmax", "attention")
    assert found.source == line("attention")
    assert found.where["sample"] == 2
    assert found.where["head"] == 0
    assert found.samples == (2,)
    assert origin_of(make, False, **known) is None


def test_a_whole_train_step_with_its_optimizer_held_back() -> None:
    model = Weight(0.0, 1.0)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = model.weight.sqrt().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    before = copy.deepcopy(model.state_dict())
    found = find_origin(model, step, Snapshot.take(model), optimizers=[optimizer])
    assert found is not None
    assert (found.node, found.symptoms) == ("SqrtBackward0", ("weight",))
    assert torch.equal(model.weight, before["weight"])
    assert not optimizer.state


def test_a_step_that_does_not_repeat_says_so() -> None:
    model, calls = Weight(1.0), iter(range(100))

    def step() -> Tensor:
        loss = (model.weight - 1).log().sum() if next(calls) else model.weight.sum()
        loss.backward()
        return loss

    found = find_origin(model, step, Snapshot.take(model))
    assert found is not None
    assert found.repeats == "no"


def test_sparse_gradients_and_complex_numbers() -> None:
    table = nn.Embedding(6, 2, sparse=True)
    nn.init.zeros_(table.weight)

    def sparse() -> Tensor:
        loss = table(torch.tensor([1, 4])).sqrt().sum()
        loss.backward()
        return loss

    found = find_origin(table, sparse, Snapshot.take(table))
    assert found is not None
    assert (found.node, found.symptoms) == ("SqrtBackward0", ("weight",))
    wave = Weight(0.0, 1.0)

    def complicated() -> Tensor:
        loss = torch.complex(wave.weight, wave.weight).abs().sqrt().sum()
        loss.backward()
        return loss

    found = find_origin(wave, complicated, Snapshot.take(wave))
    assert found is not None
    assert found.node == "SqrtBackward0"
