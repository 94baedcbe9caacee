"""Places: the user's own line and the module that runs, however it was called."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nan_watch
from nan_watch import NanWatch
from nan_watch.origin.coordinates import Axes, plain_names
from nan_watch.origin.events import Event
from nan_watch.origin.held import Where, where
from nan_watch.origin.ledger import Ledger
from nan_watch.origin.sources import TORCH, Kind, address, kind_of, module_names
from probes.layout import Layout


def only(model: nn.Module, run: Any) -> Event:
    ledger = Ledger(model)
    with ledger:
        run()
    return next(event for event in ledger.events if event.nan_born)


def test_whose_code_a_file_is() -> None:
    standard = sysconfig.get_path("stdlib")
    assert kind_of(__file__) is Kind.USER
    assert kind_of(f"{TORCH}nn/functional.py") is Kind.TORCH
    assert kind_of(str(Path(str(nan_watch.__file__)).parent / "ledger.py")) is Kind.HIDDEN
    assert kind_of(f"{standard}/contextlib.py") is Kind.HIDDEN
    assert kind_of(f"{standard}/site-packages/transformers/trainer.py") is Kind.LIBRARY
    assert kind_of("<string>") is Kind.HIDDEN
    assert kind_of("<stdin>") is Kind.USER


def test_an_address_is_relative_below_the_working_folder(tmp_path: Path) -> None:
    assert address(str(tmp_path / "code" / "train.py"), 7) == "code/train.py:7"
    assert address("/elsewhere/train.py", 7) == "/elsewhere/train.py:7"


class Leaf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.root(x)

    def root(self, x: Tensor) -> Tensor:
        return x.sqrt()


class Tree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Leaf(), Leaf()


@pytest.mark.parametrize("how", ["call", "forward", "method"])
def test_a_module_is_known_however_it_was_called(how: str) -> None:
    tree, bad = Tree(), torch.tensor([-1.0])
    calls = {"call": tree.right, "forward": tree.right.forward, "method": tree.right.root}
    event = only(tree, lambda: calls[how](bad))
    assert event.place.site == "right"
    assert event.place.source is not None
    assert event.place.source.startswith(__file__)


def test_strangers_and_code_outside_are_the_loss() -> None:
    event = only(Tree(), lambda: Leaf()(torch.tensor([-1.0])))
    assert event.place.site == "<loss>"


def test_the_models_own_name() -> None:
    tree = Tree()
    assert module_names(tree)[id(tree)] == "model"
    other = nn.ModuleDict({"model": Leaf()})
    assert module_names(other)[id(other)] == "<model>"


def bad_at(shape: tuple[int, ...], *place: int) -> Where:
    tensor = torch.zeros(shape)
    tensor[place] = torch.nan
    return where(tensor, nan=True)


@pytest.mark.parametrize(
    ("shape", "place", "named"),
    [
        ((4, 7), (2, 5), {"sample": 2, "token": 5}),
        ((4, 7, 9), (2, 5, 1), {"sample": 2, "token": 5, "feature": 1}),
        ((7, 4, 9), (5, 2, 1), {"sample": 2, "token": 5, "feature": 1}),
        ((4, 3, 7, 7), (2, 1, 5, 6), {"sample": 2, "head": 1, "token": 5, "feature": 6}),
        ((12, 7, 7), (7, 5, 6), {"sample": 2, "head": 1, "token": 5, "column": 6}),
        ((28, 9), (19, 3), {"sample": 2, "token": 5, "feature": 3}),
        ((4, 20, 9), (2, 11, 3), {"sample": 2, "time": 11, "feature": 3}),
        ((9, 11), (2, 3), {"row": 2, "column": 3}),
        ((9, 11, 13), (2, 3, 4), {"row": 2, "column": 3, "feature": 4}),
    ],
)
def test_axes_are_known_by_their_size(
    shape: tuple[int, ...], place: tuple[int, ...], named: dict[str, int]
) -> None:
    axes = Axes.of({"ids": torch.zeros(4, 7, dtype=torch.int64)}, None, [])
    found = bad_at(shape, *place)
    assert axes.coordinates(found, "site", backward=False) == named
    sample = named.get("sample")
    assert axes.samples(found, "site", False) == (None if sample is None else (sample,))


def test_a_declared_site_and_the_gradient_of_a_table_come_first() -> None:
    batch = {"x": torch.zeros(4, 7)}
    layout = Layout(axes={"x": ("sample", "time"), "cell": ("time", "sample")})
    axes = Axes.of(batch, layout, [(4, 7)])
    found = bad_at((4, 7), 1, 2)
    assert axes.coordinates(found, "cell", False) == {"time": 1, "sample": 2}
    assert axes.coordinates(found, "other", False) == {"sample": 1, "time": 2}
    assert axes.coordinates(found, "other", True) == {"row": 1, "column": 2}
    assert axes.samples(found, "other", True) is None
    assert plain_names(5) == ("axis0", "axis1", "row", "column", "feature")


LIBRARY = """
import torch
from torch import nn


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x):
        x = self.inner(x) + x.exp().log().sum()  # healthy
        return x.softmax(-1).log().sum() + (x[0, 0] * 1e4).sigmoid().log()  # sick
"""


@pytest.mark.parametrize("installed", [True, False])
def test_the_line_of_a_library_stands_beside_the_users(installed: bool, tmp_path: Path) -> None:
    folder = tmp_path / ("site-packages" if installed else "own") / "scores"
    folder.mkdir(parents=True)
    (folder / "layers.py").write_text(LIBRARY)
    made: dict[str, Any] = {"__name__": "scores.layers"}
    exec(compile(LIBRARY, str(folder / "layers.py"), "exec"), made)
    torch.manual_seed(0)
    model = made["Scores"]()
    model.inner.bias.data.fill_(-100.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        model(torch.ones(1, 3)).backward()
        optimizer.step()
    [finding] = watch.findings
    number = 1 + LIBRARY.splitlines().index(
        "        return x.softmax(-1).log().sum() + (x[0, 0] * 1e4).sigmoid().log()  # sick"
    )
    assert (finding.op, finding.confirmed) == ("aten.log", True)
    assert finding.source is not None
    if not installed:
        assert finding.source == f"own/scores/layers.py:{number}"
        assert "(in " not in finding.message
        return
    assert finding.source.startswith(f"{__file__}:")
    assert f"{finding.source} (in scores/layers.py:{number}) takes the log" in finding.message
    story = [str(each.value) for each in finding.evidence if each.what == "story"]
    assert f"(in scores/layers.py:{number})" in story[0]
