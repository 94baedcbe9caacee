"""What a step starts from in a folder: `model.safetensors`, `training.safetensors`, and JSON."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from nan_watch.capsule.optimizer_state import OptimizerState
from nan_watch.capsule.random_tensors import random_state, random_tensors
from nan_watch.capsule.start import Start, State, copies
from probes.errors import RequestError

MODEL, TRAINING = "model.safetensors", "training.safetensors"
Result = TypeVar("Result")


def whole_folder(folder: Path, write: Callable[[Path], Result]) -> Result:
    """The folder holds what `write` writes, or is not there where writing it was cut short."""
    fresh = folder.with_name(folder.name + ".new")
    fresh.mkdir(parents=True)
    try:
        result = write(fresh)
        fresh.rename(folder)  # the one moment at which it comes into being
    except BaseException:  # Ctrl-C too
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return result


def write_start(start: Start, folder: Path) -> dict[str, Any]:
    """The tensors are in the folder; returns what is to stand in JSON beside them."""
    from safetensors.torch import save_file

    training = (
        _under("optimizer", start.optimizer.tensors)
        | _under("random", random_tensors(start.state.random))
        | _under("held", start.held)
    )
    save_file({**start.parameters, **copies(start.state.buffers)}, folder / MODEL)
    save_file(training, folder / TRAINING)
    return {
        "step": start.step,
        "modes": dict(start.modes),
        "parameters": list(start.parameters),
        "optimizer": {
            "groups": [dict(group) for group in start.optimizer.groups],
            "numbers": {key: dict(each) for key, each in start.optimizer.numbers.items()},
        },
    }


def read_start(facts: Mapping[str, Any], folder: Path) -> Start:
    """What `write_start` wrote. Raises RequestError where a file cannot be read."""
    model, training = read_tensors(folder / MODEL), read_tensors(folder / TRAINING)
    names: Sequence[str] = facts["parameters"]
    buffers = {name: tensor for name, tensor in model.items() if name not in set(names)}
    optimizer = facts["optimizer"]
    return Start(
        step=facts["step"],
        state=State(random_state(below("random", training)), buffers),
        parameters={name: model[name] for name in names},
        held=below("held", training),
        modes=facts["modes"],
        optimizer=OptimizerState(
            below("optimizer", training), optimizer["numbers"], tuple(optimizer["groups"])
        ),
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of the file. Raises RequestError where it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RequestError(
            f"`{path}` cannot be read as safetensors ({error}): it was cut or changed; name "
            "another."
        ) from error
    return found


def _under(root: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{root}.{name}": tensor for name, tensor in tensors.items()}


def below(root: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    start = root + "."
    return {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}
