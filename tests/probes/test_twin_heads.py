"""Two heads of which the loss asks one for what both are to give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


class Net(nn.Module):
    """Gives what the heads `left` and `right` say, or `left` twice, called once or again."""

    def __init__(self, gives: str, deep: bool, out: int) -> None:
        super().__init__()
        self.body, self.gives, self.deep = nn.Linear(8, 16), gives, deep
        self.middle = nn.Linear(16, 16)
        self.left, self.right = nn.Linear(16, out), nn.Linear(16, out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x).relu()
        if self.gives == "again":
            return self.left(h), self.left(h)
        left, right = self.left(h), self.right(self.middle(h).relu() if self.deep else h)
        return (left, left) if self.gives == "one" else (left, right)


def batches(kind: str, value: bool) -> list[Batch]:
    chance, found = torch.Generator().manual_seed(0), []
    for _ in range(4):
        x = torch.randn(24, 8, generator=chance)
        if value:
            one, two = x[:, :1] * 2, 1 - x[:, 1:2]
        else:
            one, two = ((x[:, i] > 0).long() + (x[:, i + 1] > 0).long() for i in (0, 2))
        if kind == "mixed":
            two = one[torch.randperm(24, generator=chance)]
        elif kind == "opinions":
            two = torch.where(torch.rand(one.shape, generator=chance) < 0.3, two, one)
        rate = torch.rand((), generator=chance)
        found.append({"x": x, "y_left": one, "y_right": two, "rate": rate})
    return found


def told(
    code: str,
    asks: str,
    gives: str = "both",
    kind: str = "apart",
    *,
    deep: bool = False,
    value: bool = False,
) -> list[str]:
    """The warnings; asks: which head is asked for which labels, or which are weighed at random."""
    seed_everything(0)
    score = F.mse_loss if value else F.cross_entropy

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        given = dict(zip("lr", model(batch["x"]), strict=True))
        keys = {"l": "y_left", "r": "y_right"}
        terms = [score(given[a], batch[keys[b]]) for a, b in asks.removesuffix("~").split()]
        rate = batch["rate"] if asks.endswith("~") else torch.tensor(0.5)
        return rate * terms[0] + (1 - rate) * terms[-1]

    model = Net(gives, deep, 1 if value else 3)
    subject = Subject(
        model, batches(kind, value), loss, lambda m: torch.optim.Adam(m.parameters(), lr=1e-3)
    )
    found = check(subject, chosen([code])).findings
    return [each.message for each in found if each.verdict is not Verdict.NOTE]


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize(
    ("asks", "gives"), [("ll lr", "both"), ("ll rr", "one"), ("ll rr", "again")]
)
def test_a_head_that_is_asked_for_its_twins_labels_is_told(
    asks: str, gives: str, value: bool
) -> None:
    (message,) = told("WIR002", asks, gives, value=value)
    assert message.startswith("`y_right` is asked of what `left` gives, as `y_left` is")
    assert "nothing is asked of `right`" in message


def test_the_key_that_the_idle_head_is_called_by_is_named() -> None:
    (message,) = told("WIR002", "rl rr")
    assert message.startswith("`y_left` is asked of what `right` gives")


def test_a_term_that_is_there_twice_beside_an_idle_twin_is_told() -> None:
    (message,) = told("WIR002", "ll ll")
    assert message.startswith("what `left` gives is asked for the same twice")


@pytest.mark.parametrize(
    ("asks", "kind", "deep"),
    [
        ("ll rr", "apart", False),
        ("ll", "apart", False),  # the other is switched off
        ("ll lr", "mixed", False),
        ("ll lr~", "apart", False),  # weighed by what is drawn
        ("ll lr", "opinions", False),
        ("ll lr", "apart", True),  # the idle one reads other features
    ],
)
def test_heads_that_are_idle_on_purpose_stay_a_note(asks: str, kind: str, deep: bool) -> None:
    assert told("WIR002", asks, kind=kind, deep=deep) == []


@pytest.mark.parametrize("value", [False, True])
def test_a_head_that_is_scored_against_its_twins_labels_is_told(value: bool) -> None:
    (message,) = told("LBL002", "ll rl", value=value)
    assert message.startswith("`right` is scored against `y_left`, as its twin `left` is")
    assert "nobody reads `y_right`" in message


@pytest.mark.parametrize(
    ("asks", "kind", "deep"),
    [
        ("ll rr", "apart", False),
        ("ll rl", "opinions", False),
        ("ll rl", "apart", True),  # deep supervision
        ("ll", "apart", False),
    ],
)
def test_heads_that_learn_the_same_on_purpose_are_not_told(
    asks: str, kind: str, deep: bool
) -> None:
    assert told("LBL002", asks, kind=kind, deep=deep) == []
