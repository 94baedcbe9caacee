"""Two parameters in one memory that are both trained: told, with what their step comes to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
WORDS, WIDTH = 9, 8


class Words(nn.Module):
    """how: the output table lies in the memory of the words'."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.how = how
        weight = self.words.weight
        if how == "same":
            self.out = weight
        elif how == "turned":
            self.out = nn.Parameter(weight.t())
        elif how == "part":
            self.out = nn.Parameter(weight[: WORDS - 2])
        elif how == "frozen":
            self.out = nn.Parameter(weight.detach().clone(), requires_grad=False)
        else:
            self.out = nn.Parameter(weight)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.mix(self.words(ids)).tanh()
        table = self.out.t() if self.how == "turned" else self.out
        return F.pad(hidden @ table.t(), (0, WORDS - len(table)))


class Halves(nn.Module):
    """Columns of one memory, in turn: no number is in both."""

    def __init__(self) -> None:
        super().__init__()
        whole = 0.1 * torch.randn(WORDS, 2 * WIDTH)
        self.words = nn.Parameter(whole[:, :WIDTH])
        self.out = nn.Parameter(whole[:, WIDTH:])

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.words[ids].tanh() @ self.out.t()
        return scores


class Flat(nn.Module):
    """One flat parameter is trained; what the network runs with are slices of it."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (WORDS * WIDTH, WORDS * WIDTH)
        self.flat = nn.Parameter(0.1 * torch.randn(sum(sizes)))
        self.flat.grad = torch.zeros(sum(sizes))
        parts = [each.view(WORDS, WIDTH) for each in self.flat.detach().split(sizes)]
        self.words, self.out = (nn.Parameter(part) for part in parts)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.words[ids].tanh() @ self.out.t()
        return scores


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["next"].flatten())


def flat_step(model: nn.Module, batch: Batch, optimizer: Optimizer) -> Tensor:
    assert isinstance(model, Flat)
    model.zero_grad()
    value = loss(model, batch)
    value.backward()
    grads = [p.grad for p in (model.words, model.out) if p.grad is not None]
    model.flat.grad = torch.cat([grad.flatten() for grad in grads])
    optimizer.step()
    return value.detach()


def said(
    make: Callable[[], nn.Module],
    optimizer: Callable[[nn.Module], Optimizer],
    step: Callable[[nn.Module, Batch, Optimizer], Tensor] | None = None,
) -> list[tuple[str, str | None]]:
    seed_everything(0)
    ids = torch.randint(WORDS, (6, 11))
    batch = {"ids": ids[:, :-1], "next": ids[:, 1:]}
    subject = Subject(make(), [batch], loss, optimizer, train_step=step)
    findings = check(subject, chosen(only=["WIR017"])).findings
    return [(f.verdict.value, f.source and f.source.partition(":")[0][-20:]) for f in findings]


def adam(model: nn.Module) -> Optimizer:
    return Adam(model.parameters(), 1e-2)


@pytest.mark.parametrize("how", ["wrapped", "turned", "part"])
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_two_parameters_of_one_memory_are_told(how: str, kind: type[Adam]) -> None:
    found = said(lambda: Words(how), lambda m: kind(m.parameters(), 1e-2))
    assert found == [("warn", "test_both_trained.py")]


def test_a_step_that_is_that_of_one_is_a_note() -> None:
    found = said(lambda: Words("wrapped"), lambda m: SGD(m.parameters(), 0.1, momentum=0.9))
    assert [verdict for verdict, _ in found] == ["note"]


@pytest.mark.parametrize("how", ["same", "frozen"])
def test_one_parameter_or_one_that_learns_is_healthy(how: str) -> None:
    assert said(lambda: Words(how), adam) == []


def test_numbers_that_lie_between_each_other_are_apart() -> None:
    assert said(Halves, adam) == []


def test_slices_of_a_flat_parameter_are_healthy() -> None:
    assert said(Flat, lambda m: Adam([m.get_parameter("flat")], 1e-2), flat_step) == []
