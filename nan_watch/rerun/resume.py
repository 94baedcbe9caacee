"""A hunt that starts from a checkpoint: its weights, and what else of ours it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.autopsy.files import Loads, tensors_of
from nan_watch.autopsy.places import places
from nan_watch.capsule.optimizer_state import OptimizerState
from nan_watch.capsule.random_tensors import random_state
from nan_watch.capsule.start import Start
from nan_watch.capsule.start_folder import TRAINING, below, read_start, read_tensors
from probes.errors import RequestError

NOT_WEIGHTS = ("optimizer", "random", "held", "optim", "scheduler", "lr_scheduler", "scaler")


@dataclass(frozen=True, slots=True)
class Resumed:
    """What was loaded.

    name: the checkpoint's. step: the step that comes next, where the checkpoint says it.
    whole: whether the optimizer's state and the generators were in it too.
    """

    name: str
    step: int | None
    whole: bool


def resume(path: Path, model: nn.Module, optimizer: Optimizer) -> Resumed:
    """The model holds the checkpoint's weights; of a folder of several, the newest one's.

    Of a checkpoint of ours, optimizer and generators are as they were, too.
    Raises RequestError where it cannot be read or a tensor does not fit.
    """
    place = places([path])[-1]
    folder = place.files[0].parent
    start = _start(folder)
    if start is not None:
        start.restore(model, optimizer)
        return Resumed(place.name, start.step, whole=True)
    with tensors_of(place) as loads:
        _load(model, loads, path)
    facts = _facts(folder / "checkpoint.json")
    if facts is None or "position" not in facts or not (folder / TRAINING).is_file():
        return Resumed(place.name, None, whole=False)
    training = read_tensors(folder / TRAINING)
    saved = facts["optimizer"]
    state = OptimizerState(below("optimizer", training), saved["numbers"], tuple(saved["groups"]))
    state.load(optimizer)
    random_state(below("random", training)).restore()
    return Resumed(place.name, facts["position"]["step"], whole=True)


def _start(folder: Path) -> Start | None:
    """Of a snapshot that `--keep-every` left, or of a capsule."""
    for name in ("start.json", "capsule.json"):
        facts = _facts(folder / name)
        if facts is not None:
            return read_start(facts["start"], folder)
    return None


def _facts(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(
            f"`{path}` is no JSON ({error}): it was cut or changed; name another checkpoint."
        ) from error
    return found


@torch.no_grad()
def _load(model: nn.Module, loads: Loads, path: Path) -> None:
    wanted = model.state_dict()
    prefix = _prefix(wanted, loads)
    have = {name: loads[prefix + name] for name in wanted if prefix + name in loads}
    _check_names(wanted, have, loads, prefix, path)
    for name, load in have.items():
        found, ours = load(), wanted[name]
        if found.shape != ours.shape:
            raise RequestError(
                f"`{path}` does not fit the model: `{name}` is {tuple(found.shape)} there, but "
                f"the model has {tuple(ours.shape)}; build the model with the settings that the "
                "checkpoint was trained with."
            )
        ours.copy_(found)


def _prefix(wanted: Mapping[str, Tensor], loads: Loads) -> str:
    """What stands before the model's names there, such as `model.` or `module.`."""
    first = next(iter(wanted), "")
    candidates = {name.removesuffix(first) for name in loads if f".{name}".endswith(f".{first}")}

    def fits(prefix: str) -> tuple[int, int]:
        return sum(prefix + name in loads for name in wanted), -len(prefix)

    return max(candidates | {""}, key=fits)


def _check_names(
    wanted: Mapping[str, Tensor], have: Loads, loads: Loads, prefix: str, path: Path
) -> None:
    """Every tensor is there, or shares its memory with one that is; none of the model's is over."""
    there = {_memory(wanted[name]) for name in have}
    tops = {name.partition(".")[0] for name in wanted} - set(NOT_WEIGHTS)
    missing = [n for n, t in wanted.items() if n not in have and _memory(t) not in there]
    own = (name.removeprefix(prefix) for name in loads if name.startswith(prefix))
    over = [name for name in own if name not in wanted and name.partition(".")[0] in tops]
    for names, where in ((missing, "is not in it"), (over, "is in it, but not in the model")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise RequestError(
                f"`{path}` does not fit the model: `{names[0]}`{more} {where}; build the model "
                "with the settings that the checkpoint was trained with."
            )


def _memory(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key
