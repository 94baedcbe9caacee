"""Samples that a model cannot tell apart: it reads too little of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from overfit.alike import alike
from overfit.ceilings import CONFLICT
from overfit.look import Looker, kept_start
from probes import Subject


class Window(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.words, self.width = nn.Embedding(20, 8), width
        self.kinds = nn.Linear(8, 3)

    def forward(self, line: Tensor) -> Tensor:
        kinds: Tensor = self.kinds(self.words(line[:, : self.width]).mean(1))  # cut
        return kinds


LINES = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 6], [7, 8, 3, 4], [7, 9, 1, 1]])
KINDS = torch.tensor([0, 1, 2, 0])


def subject(width: int) -> Subject:
    torch.manual_seed(0)
    return Subject(
        Window(width),
        [(LINES, KINDS)],
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )


@pytest.mark.parametrize(
    ("width", "firsts"),
    [(4, {}), (2, {(0, 1): (0, 0)}), (1, {(0, 1): (0, 0), (0, 3): (0, 2)}), (0, {})],
)
def test_samples_that_differ_only_in_what_is_not_read_are_alike(
    width: int, firsts: dict[tuple[int, int], tuple[int, int]]
) -> None:
    own = subject(width)
    before = [each.clone() for each in own.model.parameters()]
    found = alike(own, [(LINES, KINDS)], ["0"])
    assert found.firsts == firsts
    assert all(map(torch.equal, before, own.model.parameters()))
    if firsts:
        assert found.lost is not None
        assert (found.lost.source or "").startswith("tests/overfit/test_alike.py:")


def test_units_that_are_dead_for_two_samples_do_not_make_them_alike() -> None:
    own = subject(4)
    dead = nn.Sequential(
        nn.Embedding(20, 8), nn.Flatten(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 3)
    )
    with torch.no_grad():
        dead[2].bias.fill_(-10.0)
    assert alike(replace(own, model=dead), [(LINES, KINDS)], ["0"]).firsts == {}


X = torch.tensor([[0.1, 0.3], [0.1, 0.9], [0.5, 0.4], [0.7, 0.2], [-0.4, 0.8], [-0.6, -0.3]])
Y = torch.tensor([0.3, -0.7, 1.2, 0.1, 0.4, -0.2])


def numbers(end: Callable[[Tensor], Tensor], width: int = 2, half: bool = False) -> Subject:
    """What gives one number a sample, from `width` columns of it."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 1))

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                return end(self.body(x[:, :width]).squeeze(-1)).float()  # cut

    return Subject(
        Net(),
        [(X, Y)],
        lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )


def test_numbers_are_alike_where_what_tells_them_apart_is_dropped() -> None:
    own = numbers(lambda each: each, width=1)
    assert alike(own, [(X, Y)], ["0"]).firsts == {(0, 1): (0, 0)}
    (ceiling,) = Looker(own, [(X, Y)], kept_start(own.model)).facts().ceilings
    assert (ceiling.name, ceiling.alike, ceiling.samples) == (CONFLICT, True, (0, 1))
    assert ceiling.loss == pytest.approx(2 * 0.5**2 / 6)
    assert (ceiling.op, (ceiling.source or "")[-3:].strip(":").isdigit()) == ("getitem", True)


def test_where_samples_of_two_batches_become_the_same_is_found() -> None:
    found = alike(numbers(lambda each: each, 1), [(X[::2], Y[::2]), (X[1::2], Y[1::2])], ["0"])
    assert found.firsts == {(1, 0): (0, 0)}
    assert found.lost is not None
    assert found.lost.op == "getitem"


@pytest.mark.parametrize(
    "end",
    [
        lambda each: each,
        lambda each: F.relu(each - 0.3),
        lambda each: (9.0 * each).clamp(-1.0, 1.0),
        lambda each: (99.0 * each).sigmoid(),
        lambda each: (each - 0.3).sqrt(),
        lambda each: each.round(),
    ],
    ids=["plain", "relu", "clamp", "sigmoid", "nan", "round"],
)
def test_numbers_that_end_at_a_bound_are_not(end: Callable[[Tensor], Tensor]) -> None:
    assert alike(numbers(end), [(X, Y)], ["0"]).firsts == {}
    assert alike(numbers(end, half=True), [(X, Y)], ["0"]).firsts == {}


def test_their_labels_are_a_ceiling_that_says_so() -> None:
    own = subject(2)
    found = Looker(own, [(LINES, KINDS)], kept_start(own.model)).facts().ceilings
    [ceiling] = [each for each in found if each.name == CONFLICT]
    assert (ceiling.alike, ceiling.samples, ceiling.accuracy) == (True, (0, 1), 0.75)
    assert "test_alike.py" in (ceiling.source or "")
