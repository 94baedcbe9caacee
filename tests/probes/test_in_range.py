"""What would end the process on an accelerator raises before it is computed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from probes.in_range import InRange, as_on_the_processor

TABLE = torch.arange(12.0).view(4, 3)

BAD: dict[str, Callable[[], Tensor]] = {
    "embedding": lambda: F.embedding(torch.tensor([0, 4]), TABLE),
    "embedding_bag": lambda: F.embedding_bag(torch.tensor([[0, -1]]), TABLE),
    "gather": lambda: TABLE.gather(1, torch.tensor([[3]])),
    "index_select": lambda: TABLE.index_select(0, torch.tensor([4])),
    "scatter_add": lambda: TABLE.clone().scatter_add_(1, torch.tensor([[3]]), torch.ones(1, 1)),
    "index_add": lambda: TABLE.clone().index_add(0, torch.tensor([9]), torch.ones(1, 3)),
    "index": lambda: TABLE[torch.tensor([1]), torch.tensor([-4])],
    "index_put": lambda: TABLE.clone().index_put((torch.tensor([4]),), torch.ones(3)),
    "take": lambda: TABLE.take(torch.tensor([12])),
    "nll_loss": lambda: F.cross_entropy(TABLE, torch.tensor([0, 1, 2, 3])),
    "nll_loss2d": lambda: F.cross_entropy(TABLE[:, :, None], torch.tensor([[0], [1], [2], [3]])),
    "negative label": lambda: F.cross_entropy(TABLE, torch.tensor([0, 1, 2, -1])),
}
FINE: dict[str, Callable[[], Tensor]] = {
    "embedding": lambda: F.embedding(torch.tensor([0, 3]), TABLE),
    "nothing": lambda: F.embedding(torch.zeros(0, dtype=torch.long), TABLE),
    "index": lambda: TABLE[:, torch.tensor([-3, 2])],
    "mask": lambda: TABLE[torch.tensor([True, False, True, False]), torch.tensor([2, 0])],
    "nll_loss": lambda: F.cross_entropy(TABLE, torch.tensor([0, -100, 2, 1])),
    "ignored": lambda: F.cross_entropy(TABLE, torch.tensor([0, 7, 2, 1]), ignore_index=7),
    "bernoulli": lambda: torch.bernoulli(torch.tensor([0.0, 0.5, 1.0])),
    "multinomial": lambda: torch.multinomial(torch.tensor([0.0, 3.0]), 1),
}
ODD: dict[str, Callable[[], Tensor]] = {
    "bernoulli": lambda: torch.bernoulli(torch.tensor([0.5, 1.5])),
    "binary_cross_entropy": lambda: F.binary_cross_entropy(torch.tensor([-0.1]), torch.ones(1)),
    "multinomial": lambda: torch.multinomial(torch.tensor([1.0, float("nan")]), 1),
}


@pytest.mark.parametrize("work", BAD.values(), ids=BAD)
def test_what_is_out_of_range_is_told_with_its_size(work: Callable[[], Tensor]) -> None:
    with InRange(), pytest.raises(IndexError, match=r"-?\d+ is out of range for axis \d of size"):
        work()


@pytest.mark.parametrize("work", ODD.values(), ids=ODD)
def test_what_is_no_probability_is_told_with_its_ends(work: Callable[[], Tensor]) -> None:
    with InRange(), pytest.raises(RuntimeError, match="reach"):
        work()


@pytest.mark.parametrize("work", FINE.values(), ids=FINE)
def test_what_is_in_range_is_computed_as_ever(work: Callable[[], Tensor]) -> None:
    torch.manual_seed(0)
    wanted = work()
    torch.manual_seed(0)
    with InRange():
        assert torch.equal(work(), wanted)


def test_on_the_processor_nothing_stands_between() -> None:
    own = pytest.raises(IndexError, match="index out of range in self")
    with as_on_the_processor(torch.nn.LSTM(2, 2)), own:
        F.embedding(torch.tensor([4]), TABLE)
