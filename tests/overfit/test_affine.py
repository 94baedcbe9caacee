"""Models that are affine in their input, whoever wrote them, and what that leaves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.affine import Affine, affine_in
from overfit.curves import Accuracy, Curves
from overfit.floors import Floor
from overfit.look import Look
from overfit.outcome import outcome
from probes import Layout, Subject


class Bag(nn.Module):
    """The mean of rows of a table, or what an activation makes of it, and two layers."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.table, self.one, self.two = nn.Embedding(9, 3), nn.Linear(3, 16), nn.Linear(16, 2)
        self.act = act

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.two(self.act(self.one(self.table(ids).mean(1))))
        return out


class Wave(Bag):
    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__(act)
        self.table, self.one = None, nn.Conv1d(1, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(self.act(self.one(x[:, None])).mean(-1))
        return out


def same(x: Tensor) -> Tensor:
    return x


def found(model: nn.Module, x: Tensor) -> Affine | None:
    batch = x, torch.arange(len(x)) % 2
    own = Subject(
        model,
        [batch],
        lambda model, b: F.cross_entropy(model(b[0]), b[1]),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )
    before, random = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    result = affine_in(own, [batch], ("0",), Layout())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return result


NUMBERS, IDS = torch.randn(20, 6), torch.randint(9, (20, 5))


def row(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), *between, nn.Linear(16, 2))


@pytest.mark.parametrize(
    ("model", "x", "layers", "rank"),
    [
        (row(), NUMBERS, ("0", "1"), 7),
        (row(nn.BatchNorm1d(16), nn.Dropout(0.5)), NUMBERS, ("0", "3"), 7),
        (nn.Linear(6, 2), NUMBERS, ("model",), 7),
        (Bag(same), IDS, ("one", "two"), 4),
        (Wave(same), NUMBERS, ("one", "two"), 4),
    ],
)
def test_an_affine_model_is_told_with_its_layers(
    model: nn.Module, x: Tensor, layers: Sequence[str], rank: int
) -> None:
    one = found(model, x)
    assert one is not None
    assert (one.layers, one.rank, one.places) == (layers, rank, 20)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (row(nn.ReLU()), NUMBERS),
        (row(nn.LeakyReLU(0.9)), NUMBERS),
        (row(nn.LayerNorm(16)), NUMBERS),
        (Bag(torch.tanh), IDS),
        (Wave(torch.relu), NUMBERS),
        (row(), NUMBERS[:6]),  # as many numbers as samples
        (row(), NUMBERS * 0),  # nothing is read
        (nn.Sequential(nn.Linear(6, 16), nn.Softmax(-1)), NUMBERS @ torch.zeros(6, 6)),
    ],
)
def test_no_other_model_is(model: nn.Module, x: Tensor) -> None:
    assert found(model, x) is None


LINE = Affine(("one", "two"), "a.py:3", 7, 20, 7)
FALLING = [1.6 * 0.9**i for i in range(100)]
STUCK = [1.6 * 0.9**i for i in range(8)] + [0.7] * 92


def curves(losses: list[float], right: tuple[float, float], look: Look | None) -> Curves:
    return Curves(
        name="overfit-20-seed0",
        size=20,
        seed=0,
        budget=400,
        unit="samples",
        steps=tuple(range(100)),
        losses=tuple(losses),
        heads={"token": Accuracy((0, 10), right, (10.0, 10.0))},
        ended="steps",
        look=look,
    )


@pytest.mark.parametrize(
    ("affine", "width", "site"),
    [
        (LINE, 6, "one"),
        (replace(LINE, rank=3), 2, "narrow"),  # what a narrow layer leaves of it
        (replace(LINE, rank=3), 16, "one"),
        (None, 16, "narrow"),
    ],
)
def test_too_little_room_names_the_affine_layers_unless_one_is_narrower(
    affine: Affine | None, width: int, site: str
) -> None:
    look = Look(affine=affine, narrow="narrow", width=width)
    assert Look.from_json(look.as_json()) == look
    floor = Floor("label prior", "token", 0.6, 0.5, exact=True)
    fewer = replace(curves(FALLING, (5.0, 10.0), None), size=5, floors=(floor,))
    lead = outcome(replace(curves(STUCK, (3.0, 4.0), look), smaller=(fewer,))).findings[0]
    assert (lead.code, lead.site) == ("FIT013", site)
    assert ("no nonlinearity stands between `one` and `two` (a.py:3)" in lead.message) == (
        site == "one"
    )
    assert (lead.source == "a.py:3") == (site == "one")


def test_what_was_not_memorised_at_any_size_says_so_too() -> None:
    lead = outcome(curves(STUCK, (3.0, 8.0), Look(affine=LINE))).findings[0]
    assert (lead.code, lead.site, lead.source) == ("FIT002", "one", "a.py:3")
    assert lead.message.endswith(
        "7 numbers, the constant among them, are all it has for 20 places."
    )
    assert lead.fix.startswith("Put a nonlinearity behind each layer but the last, `one` first.")
