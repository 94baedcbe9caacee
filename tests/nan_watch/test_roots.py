"""A plain loop's loss is seen whichever way its backward pass is called."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from nan_watch import NanWatch, PoisonedStep
from nan_watch.hunt import hunt
from probes.subject import Subject

Backward = Callable[[Tensor], None]
WAYS: dict[str, Backward] = {
    "of the tensor": lambda loss: loss.backward(),
    "of torch": lambda loss: torch.autograd.backward([loss / 2, loss / 2]),
    "of a scaler": lambda loss: GradScaler("cpu").scale(loss).backward(),
}


class Masked(nn.Module):
    """Scores whose hidden ones are -inf, and which it returns as chances."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.hide = nn.Linear(3, 4), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tensor([False, False, False, True])
        return self.hide(self.scores(x).masked_fill(hidden, -torch.inf)).softmax(-1)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", [nn.Linear(3, 4), Masked()], ids=["linear", "masked"])
def test_a_loss_that_is_nan_is_born_in_the_forward_pass(model: nn.Module, way: str) -> None:
    optimizer = sgd(model)
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        for rows in (4, 1):
            chance = model(torch.randn(rows, 3))[:, 0]
            advantage = torch.arange(float(rows))
            advantage = advantage / advantage.std()  # of one number
            WAYS[way]((chance * advantage).mean())
            optimizer.step()
            optimizer.zero_grad()
    [finding] = watch.findings
    assert (finding.site, finding.phase, finding.step) == ("<loss>", "forward", 1)
    assert finding.message.startswith("the loss of step 1 is nan, though ")
    assert "`watch.step(fn)`" in finding.fix
    nodes = next(str(e.value) for e in finding.evidence if e.what.startswith("autograd nodes"))
    assert "MeanBackward0" in nodes


@pytest.mark.parametrize("to_none", [True, False])
def test_what_the_loop_drops_by_itself_is_no_part_of_the_next_step(to_none: bool) -> None:
    model, other = nn.Linear(3, 1), nn.Linear(3, 1)
    optimizer = sgd(model)
    with NanWatch(model, optimizer) as watch:
        for step in range(6):
            loss = model(torch.randn(4, 3)).square().mean()
            loss = loss * torch.nan if step == 2 else loss
            loss.backward()
            (other(torch.ones(1, 3)).mean() * torch.inf).backward()  # of no interest here
            if not nn.utils.clip_grad_norm_(model.parameters(), 1.0).isfinite():
                optimizer.zero_grad(set_to_none=to_none)
                continue
            optimizer.step()
            optimizer.zero_grad(set_to_none=to_none)
    assert not watch.findings


def test_a_loss_that_is_finite_is_born_in_the_backward_pass() -> None:
    model = nn.Linear(3, 1, bias=False)
    with NanWatch(model, sgd(model), on_poison="skip") as watch:
        model(torch.zeros(2, 3)).square().sum().sqrt().backward()
        watch._guard.optimizer.step()
    [finding] = watch.findings
    assert (finding.site, finding.phase) == ("<loss>", "backward")


def test_torchs_own_backward_is_given_back_in_any_order() -> None:
    before = torch.autograd.backward
    one, two = (NanWatch(m, sgd(m)) for m in (nn.Linear(2, 2), nn.Linear(2, 2)))
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert torch.autograd.backward is not before
    two.model(torch.ones(1, 2)).sum().backward()
    assert len(two._roots.waiting) == 1
    two.__exit__(None, None, None)
    assert torch.autograd.backward is before


def test_a_subject_whose_loss_is_refused_in_hunt_is_told_as_before() -> None:
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).log().mean()

    torch.manual_seed(0)
    batches = [torch.ones(2, 3), -torch.ones(2, 3)]
    found = hunt(Subject(nn.Linear(3, 1), batches, loss, sgd), steps=4).judgement.findings
    assert found[0].op == "aten.log"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_step_that_is_compiled_with_its_backward_pass_is_refused() -> None:
    model = nn.Linear(3, 1)
    optimizer = sgd(model)

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        (model(x).mean() / x.sum()).backward()
        optimizer.step()

    step = torch.compile(step, backend="eager")
    with pytest.raises(PoisonedStep), NanWatch(model, optimizer):  # noqa: PT012
        step(torch.ones(2, 3))
        step(torch.zeros(2, 3))
