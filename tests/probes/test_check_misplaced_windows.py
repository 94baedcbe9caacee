"""IDX030: windows of places come back to other places."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

Branch = Callable[["Net", Tensor], Tensor]
N, SIDE, WINDOW, WIDTH = 5, 8, 4, 12


class Net(nn.Module):
    """Places of a grid, one after the other, with a branch beside them."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.read, self.norm = nn.Linear(3, WIDTH), nn.LayerNorm(WIDTH)
        self.ask, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.near = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.groups = nn.Conv1d(WIDTH, WIDTH, 1, groups=3)
        self.head, self.branch = nn.Linear(WIDTH, 2), branch

    def attend(self, x: Tensor, causal: bool = False) -> Tensor:
        q, k, v = self.ask(x).chunk(3, -1)
        found: Tensor = self.out(F.scaled_dot_product_attention(q, k, v, is_causal=causal))
        return found

    def forward(self, x: Tensor) -> Tensor:
        h = self.read(x)
        h = h + self.branch(self, self.norm(h))
        scores: Tensor = self.head(h)
        return scores


def cut(x: Tensor, ordered: bool = True) -> Tensor:
    """(sample * window, place, feature) of (sample, place, feature)."""
    k = SIDE // WINDOW
    grid = x.view(-1, k, WINDOW, k, WINDOW, WIDTH)
    grid = grid.permute(0, 1, 3, 2, 4, 5) if ordered else grid
    return grid.reshape(-1, WINDOW * WINDOW, WIDTH)


def back(x: Tensor, ordered: bool = True) -> Tensor:
    k = SIDE // WINDOW
    grid = x.view(-1, k, k, WINDOW, WINDOW, WIDTH)
    grid = grid.permute(0, 1, 3, 2, 4, 5) if ordered else grid
    return grid.reshape(-1, SIDE, SIDE, WIDTH).view(-1, SIDE * SIDE, WIDTH)


def rolled(m: Net, x: Tensor) -> Tensor:
    grid = x.view(-1, SIDE, SIDE, WIDTH).roll((-2, -2), (1, 2))
    made = back(m.attend(cut(grid.flatten(1, 2)))).view(grid.shape)
    return made.roll((2, 2), (1, 2)).flatten(1, 2)


def strided(m: Net, x: Tensor, undone: bool = True) -> Tensor:
    far = x.view(-1, SIDE, SIDE, WIDTH).transpose(1, 2).reshape(-1, SIDE, WIDTH)
    made = m.attend(far).view(-1, SIDE, SIDE, WIDTH)
    return (made.transpose(1, 2) if undone else made).reshape(x.shape)


def runs(m: Net, x: Tensor) -> Tensor:
    return m.attend(x.view(-1, SIDE, WIDTH)).view(x.shape)


def causal(m: Net, x: Tensor) -> Tensor:
    """Of what came before in a run, without the place itself."""
    made = m.attend(x.view(-1, SIDE, WIDTH), causal=True).view(x.shape)
    return F.pad(made, (0, 0, 1, 0))[:, :-1]


def convolved(m: Net, x: Tensor) -> Tensor:
    found: Tensor = m.near(x.transpose(1, 2)).transpose(1, 2)
    return found


def shifted(_: Net, x: Tensor) -> Tensor:
    return x.view(-1, SIDE, SIDE, WIDTH).roll(1, 1).reshape(x.shape)


def partner(m: Net, x: Tensor) -> Tensor:
    """Each half of all places reads the mean of the other half."""
    halves = x.view(-1, 2, SIDE * SIDE // 2, WIDTH).mean(2, keepdim=True).flip(1)
    found: Tensor = m.out(halves).expand(-1, 2, SIDE * SIDE // 2, WIDTH).reshape(x.shape)
    return found


def whole(m: Net, x: Tensor) -> Tensor:
    return m.attend(x.view(-1, SIDE * SIDE, WIDTH))


class Shuffled(Net):
    """Channels in groups are shuffled, where these stand before the places."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.read(x).transpose(1, 2)
        made = self.groups(h).view(-1, 3, WIDTH // 3, SIDE * SIDE).transpose(1, 2)
        scores: Tensor = self.head((h + made.reshape(h.shape)).transpose(1, 2))
        return scores


def found(branch: Branch, kind: type[Net] = Net) -> list[Finding]:
    seed_everything(0)
    x = torch.randn(N, SIDE * SIDE, 3)
    subject = Subject(
        kind(branch),
        [{"x": x, "y": (x[..., 0] > 0).long()}],
        lambda m, b: F.cross_entropy(m(b["x"]).flatten(0, 1), b["y"].flatten()),
        lambda m: torch.optim.SGD(m.parameters(), lr=0.01),
        predict=lambda m, b: m(b["x"]),
    )
    rules = chosen(["IDX030"], [])
    return [each for each in check(subject, rules).findings if each.code == "IDX030"]


@pytest.mark.parametrize(
    ("branch", "way"),
    [
        (lambda m, x: back(m.attend(cut(x)), ordered=False), "come back"),
        (lambda m, x: back(m.attend(cut(x, ordered=False))), "are cut"),
        (lambda m, x: strided(m, x, undone=False), "come back"),
    ],
)
def test_an_order_that_is_left_out_on_one_way_is_told(branch: Branch, way: str) -> None:
    (one,) = found(branch)
    assert f"places {way} by a `" in one.message
    assert one.source is not None


@pytest.mark.parametrize(
    "branch",
    [
        lambda m, x: back(m.attend(cut(x))),
        lambda m, x: back(m.attend(cut(x, ordered=False)), ordered=False),
        *(rolled, strided, runs, causal, convolved, shifted, partner, whole),
    ],
)
def test_places_that_come_back_and_that_are_no_windows_are_silent(branch: Branch) -> None:
    assert not found(branch)


def test_channels_are_no_places() -> None:
    assert not found(whole, Shuffled)
