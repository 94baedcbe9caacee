"""A capsule's folder: safetensors and JSON, which is there whole or not at all.

`model.safetensors` holds parameters and buffers, `training.safetensors` the optimizer's tensors
and the random states, `batch.safetensors` what the step read, `capsule.json` everything else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_watch.capsule.content import Capsule, ModelCall
from nan_watch.capsule.pack import pack, unpack
from nan_watch.capsule.random_tensors import random_state, random_tensors
from nan_watch.capsule.start import Start, State
from nan_watch.capsule.start_folder import read_start, read_tensors, whole_folder, write_start
from probes import strict_json
from probes.errors import RequestError
from probes.finding import Finding

SCHEMA = 1
JSON, BATCH = "capsule.json", "batch.safetensors"


def save(capsule: Capsule, folder: Path) -> tuple[str, ...]:
    """The folder holds the capsule, or is not there where writing it was cut short.

    Returns what was left out: what the batch holds beside tensors, numbers, strings and their
    containers.
    """
    return whole_folder(folder, lambda fresh: _write(capsule, fresh))


def _write(capsule: Capsule, folder: Path) -> tuple[str, ...]:
    from safetensors.torch import save_file

    given = pack({"batch": capsule.batch, "calls": [_of_call(each) for each in capsule.calls]})
    left_out = (*capsule.left_out, *given.left_out)
    start = {"start": write_start(capsule.start, folder)}
    save_file(dict(given.tensors), folder / BATCH)
    facts = _facts(capsule) | start | {"left_out": left_out, "given": given.tree}
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
        "subject": capsule.subject,
        "folder": capsule.folder,
        "seed": capsule.seed,
        "device": capsule.device,
        "versions": dict(capsule.versions),
        "finding": capsule.finding.as_json(),
        "loss": {"value": capsule.loss},
        "loaded": list(capsule.loaded),
        "samples": None if capsule.samples is None else list(capsule.samples),
    }


def find(place: Path) -> Path:
    """The capsule's folder: the place itself, or that of the run folder that it is, or of a part.

    Raises RequestError where there is none.
    """
    for folder in (place, place / "capsule", *sorted(place.glob("parts/*/capsule"))):
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
        given = unpack(facts["given"], read_tensors(folder / BATCH))
        return _capsule(facts, read_start(facts["start"], folder), given)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"`{folder / JSON}` is not the JSON of a capsule ({type(error).__name__}: {error}): "
            "it was cut or changed; name another capsule."
        ) from error


def _capsule(facts: Mapping[str, Any], start: Start, given: Mapping[str, Any]) -> Capsule:
    loss = facts["loss"]
    return Capsule(
        start=start,
        finding=Finding.from_json(facts["finding"]),
        subject=facts["subject"],
        folder=facts["folder"],
        seed=facts["seed"],
        device=facts["device"],
        loss=float(loss["nonfinite"]) if "nonfinite" in loss else loss["value"],
        loaded=tuple(facts["loaded"]),
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
