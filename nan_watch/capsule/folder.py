"""A capsule's folder: safetensors and JSON, which is there whole or not at all.

`model.safetensors` holds parameters and buffers, `training.safetensors` the optimizer's tensors
and the random states, `batch.safetensors` what the step read, `capsule.json` everything else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from nan_watch.capsule.content import Capsule, ModelCall, State, copies
from nan_watch.capsule.optimizer_state import OptimizerState
from nan_watch.capsule.pack import pack, unpack
from nan_watch.capsule.random_tensors import random_state, random_tensors
from probes import strict_json
from probes.errors import RequestError
from probes.finding import Finding

SCHEMA = 1
JSON = "capsule.json"
MODEL, TRAINING, BATCH = "model.safetensors", "training.safetensors", "batch.safetensors"


def save(capsule: Capsule, folder: Path) -> tuple[str, ...]:
    """The folder holds the capsule, or is not there where writing it was cut short.

    Returns what was left out: what the batch holds beside tensors, numbers, strings and their
    containers.
    """
    fresh = folder.with_name(folder.name + ".new")
    fresh.mkdir(parents=True)
    try:
        left_out = _write(capsule, fresh)
        fresh.rename(folder)  # the one moment at which the capsule comes into being
    except BaseException:  # Ctrl-C too
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return left_out


def _write(capsule: Capsule, folder: Path) -> tuple[str, ...]:
    from safetensors.torch import save_file

    given = pack({"batch": capsule.batch, "calls": [_of_call(each) for each in capsule.calls]})
    training = (
        _under("optimizer", capsule.optimizer.tensors)
        | _under("random", random_tensors(capsule.state.random))
        | _under("held", capsule.held)
    )
    save_file({**capsule.parameters, **copies(capsule.state.buffers)}, folder / MODEL)
    save_file(training, folder / TRAINING)
    save_file(dict(given.tensors), folder / BATCH)
    left_out = (*capsule.left_out, *given.left_out)
    facts = _facts(capsule) | {"left_out": left_out, "given": given.tree}
    strict_json.write(folder / JSON, facts)
    return left_out


def _of_call(call: ModelCall) -> dict[str, Any]:
    return {
        "args": list(call.args),
        "kwargs": dict(call.kwargs),
        "grads": dict(call.grads),
        "autocast": [list(each) for each in call.autocast],
        "random": random_tensors(call.state.random),
        "buffers": dict(call.state.buffers),
    }


def _facts(capsule: Capsule) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "step": capsule.step,
        "subject": capsule.subject,
        "folder": capsule.folder,
        "seed": capsule.seed,
        "device": capsule.device,
        "versions": dict(capsule.versions),
        "finding": capsule.finding.as_json(),
        "loss": {"value": capsule.loss},
        "loaded": list(capsule.loaded),
        "samples": None if capsule.samples is None else list(capsule.samples),
        "modes": dict(capsule.modes),
        "parameters": list(capsule.parameters),
        "optimizer": {
            "groups": [dict(group) for group in capsule.optimizer.groups],
            "numbers": {key: dict(each) for key, each in capsule.optimizer.numbers.items()},
        },
    }


def _under(root: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{root}.{name}": tensor for name, tensor in tensors.items()}


def _below(root: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = root + "."
    return {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}


def find(place: Path) -> Path:
    """The capsule's folder: the place itself, or `capsule/` of the run folder that it is.

    Raises RequestError where there is none.
    """
    for folder in (place, place / "capsule"):
        if (folder / JSON).is_file():
            return folder
    raise RequestError(
        f"`{place}` holds no capsule: a folder with a `{JSON}` was expected, or a run folder with "
        "a `capsule/`, which a run has once a step of it was refused."
    )


def load(place: Path) -> Capsule:
    """The capsule there, its tensors on the CPU. Raises RequestError where it cannot be read."""
    folder = find(place)
    try:
        facts = json.loads((folder / JSON).read_text(encoding="utf-8"))
        if facts["schema"] != SCHEMA:
            raise RequestError(
                f"`{folder / JSON}` is of schema {facts['schema']}, but this version reads "
                f"{SCHEMA}: read it with the whynan that wrote it."
            )
        return _capsule(facts, *(_read(folder / name) for name in (MODEL, TRAINING, BATCH)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"`{folder / JSON}` is not the JSON of a capsule ({type(error).__name__}: {error}): "
            "it was cut or changed; name another capsule."
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RequestError(
            f"`{path}` cannot be read as safetensors ({error}): it was cut or changed; name "
            "another capsule."
        ) from error
    return found


def _capsule(
    facts: Mapping[str, Any],
    model: Mapping[str, Tensor],
    training: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
) -> Capsule:
    given = unpack(facts["given"], batch)
    names: Sequence[str] = facts["parameters"]
    buffers = {name: tensor for name, tensor in model.items() if name not in set(names)}
    loss = facts["loss"]
    return Capsule(
        step=facts["step"],
        finding=Finding.from_json(facts["finding"]),
        subject=facts["subject"],
        folder=facts["folder"],
        seed=facts["seed"],
        device=facts["device"],
        loss=float(loss["nonfinite"]) if "nonfinite" in loss else loss["value"],
        loaded=tuple(facts["loaded"]),
        state=State(random_state(_below("random", training)), buffers),
        parameters={name: model[name] for name in names},
        held=_below("held", training),
        modes=facts["modes"],
        optimizer=OptimizerState(
            _below("optimizer", training),
            facts["optimizer"]["numbers"],
            tuple(facts["optimizer"]["groups"]),
        ),
        batch=given["batch"],
        calls=tuple(_call(each) for each in given["calls"]),
        left_out=tuple(facts["left_out"]),
        samples=None if facts["samples"] is None else tuple(facts["samples"]),
        versions=facts["versions"],
    )


def _call(facts: Mapping[str, Any]) -> ModelCall:
    state = State(random_state(facts["random"]), facts["buffers"])
    args, kwargs = facts["args"], facts["kwargs"]
    return ModelCall(args, kwargs, facts["grads"], facts["autocast"], state)
