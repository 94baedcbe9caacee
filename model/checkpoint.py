"""Checkpoints: a folder of safetensors and JSON, which is there whole or not at all.

`model.safetensors` holds the weights, `training.safetensors` the optimizer's tensors and torch's
random states, `checkpoint.json` everything else. No class is pickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from model.random_state import random_state, set_random_state
from probes import strict_json
from probes.errors import RequestError

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Position:
    """Where training stands: optimizer steps done, the epoch, and how many steps of it are done."""

    step: int = 0
    epoch: int = 0
    taken: int = 0


def save(
    run: Path,
    position: Position,
    model: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    about: Mapping[str, Any],
) -> Path:
    """`run/step-000120` holds the whole state of training; returns that folder.

    `about` is JSON of the caller's own. A checkpoint of that step that is already there is kept.
    """
    folder = run / f"step-{position.step:06d}"
    if folder.is_dir():
        return folder
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)  # left by a run that was killed while it wrote
    fresh.mkdir(parents=True)
    tensors, groups = _optimizer_state(optimizer)
    save_file(_plain(model.state_dict()), fresh / "model.safetensors")
    training = _under("optimizer", tensors) | _under("random", random_state())
    save_file(_plain(training), fresh / "training.safetensors")
    state = {
        "schema": SCHEMA,
        "position": asdict(position),
        "optimizer": groups,
        "schedule": schedule.state_dict(),
        "about": dict(about),
    }
    strict_json.write(fresh / "checkpoint.json", state)
    fresh.rename(folder)  # the one moment at which the checkpoint comes into being
    return folder


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory, as safetensors asks for: tied weights are written twice."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _under(root: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{root}.{name}": tensor for name, tensor in tensors.items()}


def _below(root: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = root + "."
    return {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}


def _optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers.setdefault(str(index), {})[name] = value
    return tensors, {"groups": state["param_groups"], "numbers": numbers}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint's JSON says; the tensors are read when they are asked for."""

    folder: Path
    position: Position
    about: Mapping[str, Any]
    state: Mapping[str, Any]

    def load_model(self, model: nn.Module) -> None:
        """The model holds the checkpoint's weights.

        Raises RequestError where a tensor is missing, left over or of another shape.
        """
        tensors = _read(self.folder / "model.safetensors")
        wanted = model.state_dict()
        for name in sorted(wanted.keys() | tensors.keys()):
            _check_shape(self.folder, name, tensors.get(name), wanted.get(name))
        model.load_state_dict(tensors)

    def load_training(self, optimizer: Optimizer, schedule: LRScheduler) -> None:
        """Optimizer, schedule and all random states are as they were when it was written."""
        tensors = _read(self.folder / "training.safetensors")
        _load_optimizer(optimizer, _below("optimizer", tensors), self.state["optimizer"])
        schedule.load_state_dict(dict(self.state["schedule"]))
        set_random_state(_below("random", tensors))


def latest(place: Path) -> Checkpoint:
    """The checkpoint at `place`, or the newest one of the run folder `place`.

    Raises RequestError where there is none, or where its JSON cannot be read.
    """
    folders = [place] if (place / "checkpoint.json").is_file() else whole(place)
    if not folders:
        raise RequestError(
            f"`{place}` holds no checkpoint: a folder with a `checkpoint.json`, or a run folder "
            "with such folders named `step-000120`, was expected; name what a training run "
            "printed as `checkpoint: PATH`."
        )
    return _open(folders[-1])


def whole(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first; half-written ones are left out."""
    return sorted(path.parent for path in run.glob("step-*[0-9]/checkpoint.json"))


def prune(run: Path, keep: int) -> None:
    """Only the newest `keep` checkpoints of the run are left."""
    for folder in whole(run)[:-keep]:
        shutil.rmtree(folder)


def _open(folder: Path) -> Checkpoint:
    path = folder / "checkpoint.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return Checkpoint(folder, Position(**state["position"]), state["about"], state)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise RequestError(
            f"`{path}` is not the JSON of a checkpoint ({error}): it was cut or changed; name "
            "another checkpoint."
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RequestError(
            f"`{path}` cannot be read as safetensors ({error}): it was cut or changed; name "
            "another checkpoint."
        ) from error


def _check_shape(folder: Path, name: str, found: Tensor | None, wanted: Tensor | None) -> None:
    if found is None or wanted is None:
        where = "is in the checkpoint alone" if wanted is None else "is not in the checkpoint"
        raise RequestError(
            f"`{folder}` is a checkpoint of another shape: `{name}` {where}; build the model with "
            "the settings and the data that the checkpoint was trained with."
        )
    if found.shape != wanted.shape:
        raise RequestError(
            f"`{folder}` is a checkpoint of another shape: `{name}` is {tuple(found.shape)} there, "
            f"but the model has {tuple(wanted.shape)}; build the model with the settings and the "
            "data that the checkpoint was trained with."
        )


def _load_optimizer(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], saved: Mapping[str, Any]
) -> None:
    state: dict[int, dict[str, Any]] = {
        int(index): dict(slots) for index, slots in saved["numbers"].items()
    }
    for path, tensor in tensors.items():
        index, _, name = path.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    groups = [_tuples_again(group) for group in saved["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _tuples_again(group: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples: Adam's `betas` come back as a list."""
    return {
        key: tuple(value) if isinstance(value, list) and key != "params" else value
        for key, value in group.items()
    }
