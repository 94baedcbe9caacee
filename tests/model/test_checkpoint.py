from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from model.checkpoint import Position, latest, prune, save, whole
from probes.errors import RequestError

State = tuple[nn.Module, Optimizer, LambdaLR]


def trainer(width: int = 4, kind: str = "adam") -> State:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, width), nn.Dropout(0.5), nn.Linear(width, 1))
    optimizer: Optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    if kind == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optimizer, LambdaLR(optimizer, lambda step: 0.9**step)


def walk(state: State, steps: int) -> None:
    """Steps whose data and dropout hang on the random states of all three libraries."""
    model, optimizer, schedule = state
    for _ in range(steps):
        noise = random.gauss(0, 1) + float(np.random.normal())
        optimizer.zero_grad()
        (model(torch.randn(8, 3)) + noise).square().mean().backward()
        optimizer.step()
        schedule.step()


def equal(left: nn.Module, right: nn.Module) -> bool:
    theirs = right.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in left.state_dict().items())


def seed() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("before", [2, 3])  # an odd number leaves half of a gaussian pair behind
def test_goes_on_to_the_bit(tmp_path: Path, kind: str, before: int) -> None:
    straight = trainer(kind=kind)
    seed()
    walk(straight, before + 4)
    first = trainer(kind=kind)
    seed()
    walk(first, before)
    save(tmp_path, Position(before), *first, about={})
    second = trainer(width=4, kind=kind)
    walk(second, 1)  # other weights, other state, other random numbers
    found = latest(tmp_path)
    found.load_model(second[0])
    found.load_training(*second[1:])
    walk(second, 4)
    assert equal(straight[0], second[0])
    assert straight[2].state_dict() == second[2].state_dict()


def test_no_class_is_pickled_and_the_json_is_plain(tmp_path: Path) -> None:
    state = trainer()
    walk(state, 2)
    folder = save(tmp_path, Position(2, 1, 1), *state, about={"config": {"lr": 0.1}})
    files = {"checkpoint.json", "model.safetensors", "training.safetensors"}
    assert {path.name for path in folder.iterdir()} == files
    said = json.loads((folder / "checkpoint.json").read_text())
    assert said["position"] == {"step": 2, "epoch": 1, "taken": 1}
    assert latest(tmp_path).about == {"config": {"lr": 0.1}}
    assert latest(folder).position == Position(2, 1, 1)


def test_tied_weights_survive(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save(tmp_path, Position(), model, optimizer, LambdaLR(optimizer, lambda _: 1.0), about={})
    want = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.zero_()
    latest(tmp_path).load_model(model)
    assert torch.equal(model[0].weight, want)
    assert model[0].weight is model[1].weight


def test_half_written_is_not_there(tmp_path: Path) -> None:
    state = trainer()
    good = save(tmp_path, Position(1), *state, about={})
    torn = tmp_path / "step-000002.new"  # what a kill in the middle of a save leaves
    torn.mkdir()
    (torn / "checkpoint.json").write_text("{")
    assert whole(tmp_path) == [good]
    assert latest(tmp_path).folder == good
    assert save(tmp_path, Position(2), *state, about={}).is_dir()
    assert not torn.exists()


def test_an_error_while_writing_leaves_no_checkpoint(tmp_path: Path) -> None:
    class Unwritable:
        def __str__(self) -> str:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, Position(1), *trainer(), about={"bad": Unwritable()})
    assert whole(tmp_path) == []


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    state = trainer()
    for step in (1, 2, 30):
        save(tmp_path, Position(step), *state, about={})
    prune(tmp_path, 2)
    assert [path.name for path in whole(tmp_path)] == ["step-000002", "step-000030"]


def test_another_shape_is_refused_with_a_sentence(tmp_path: Path) -> None:
    folder = save(tmp_path, Position(1), *trainer(width=4), about={})
    with pytest.raises(RequestError) as error:
        latest(folder).load_model(trainer(width=5)[0])
    assert str(error.value) == (
        f"`{folder}` is a checkpoint of another shape: `0.bias` is (4,) there, but the model has "
        "(5,); build the model with the settings and the data that the checkpoint was trained "
        "with."
    )
    with pytest.raises(RequestError, match=r"`0\.bias` is in the checkpoint alone"):
        latest(folder).load_model(nn.Linear(3, 1))
    with pytest.raises(RequestError, match=r"`3\.bias` is not in the checkpoint"):
        latest(folder).load_model(nn.Sequential(*trainer()[0], nn.LayerNorm(1)))


def test_no_checkpoint_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"`{tmp_path}` holds no checkpoint"):
        latest(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "checkpoint.json"])
def test_a_cut_file_is_refused_with_a_sentence(tmp_path: Path, name: str) -> None:
    state = trainer()
    walk(state, 1)
    path = save(tmp_path, Position(1), *state, about={}) / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RequestError, match=r"it was cut or changed; name another checkpoint\."):
        _load_all(tmp_path, state)


def _load_all(place: Path, state: State) -> None:
    found = latest(place)
    found.load_model(state[0])
    found.load_training(*state[1:])
