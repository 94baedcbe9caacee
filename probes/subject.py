"""What is under diagnosis: a `Subject`, and how `FILE.py:NAME` becomes one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from probes.advice import WRITE_IT, meant
from probes.errors import RequestError
from probes.layout import Layout
from probes.raised import asked_of_user
from probes.seeding import seed_everything

Batch = Any
"""A mapping, tuple or list of tensors, numbers and strings, nested or not."""


Pair = tuple[float | Tensor, float | Tensor]
"""Hits and count: a `Ratio`, or a plain tuple of the two."""


class Ratio(NamedTuple):
    """An accuracy with its count: `hits` right out of `count` judged; numbers or 0-d tensors."""

    hits: float | Tensor
    count: float | Tensor  # type: ignore[assignment]  # the field's word, over tuple.count


@dataclass(frozen=True)
class Subject:
    """All that a user has to write; the first four fields are enough.

    model: the module under diagnosis.
    batches: what a step is fed, one after the other; a DataLoader will do.
    loss: runs the model on a batch and returns a scalar.
    optimizer: makes the optimizer for a model.
    predict: runs the model and returns its output, or its outputs by name.
    train_step: a whole step of the user's own; returns the loss.
    schedule: makes the learning-rate schedule for an optimizer; stepped once a step.
    clip_norm: the total gradient norm that a step is clipped to, before the optimizer.
    parts: named terms of the loss.
    metrics: named accuracies, each as hits and count.
    interventions: named variants of this subject, offered to `--why`.
    eval_batches: what is evaluated, never trained on.
    describe: how to call sample `i` of a batch.
    layout: what the tensors mean; what it leaves out is guessed.
    group: the batch key whose value the samples of an overfit suite share, such as a database.
    """

    model: nn.Module
    batches: Iterable[Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    optimizer: Callable[[nn.Module], Optimizer]
    predict: Callable[[nn.Module, Batch], Tensor | Mapping[str, Tensor]] | None = None
    train_step: Callable[[nn.Module, Batch, Optimizer], Tensor] | None = None
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    clip_norm: float | None = None
    parts: Mapping[str, Callable[[nn.Module, Batch], Tensor]] = field(default_factory=dict)
    metrics: Mapping[str, Callable[[nn.Module, Batch], Pair]] = field(default_factory=dict)
    interventions: Mapping[str, Callable[[Subject], Subject]] = field(default_factory=dict)
    eval_batches: Iterable[Batch] | None = None
    describe: Callable[[Batch, int], str] | None = None
    layout: Layout | None = None
    group: str | None = None


def length_of(batches: object) -> int | None:
    """How many batches there are; None where none can say, as of a DataLoader over a stream."""
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        return None


def load_subject(address: str, seed: int | None = None) -> Subject:
    """The subject at `FILE.py:NAME` or `package.module:NAME`, made afresh after seeding.

    Raises RequestError where there is no such file, module or name, or where what is there is
    neither a Subject nor a function that returns one, or raises.
    """
    if seed is not None:
        seed_everything(seed)
    found, verb = load(address), "is"
    if callable(found) and not isinstance(found, (Subject, nn.Module)):
        with asked_of_user(f"`{address}`, called without arguments,"):
            found, verb = found(), "was called and returned"
    if not isinstance(found, Subject):
        with asked_of_user(f"`{address}`, asked for its parts,"):
            found = _of_framework(found) or found
    if not isinstance(found, Subject):
        raise RequestError(
            f"`{address}` {verb} {_called(found)}, but a Subject, a trainer of a known framework, "
            f"or a function that returns one, was expected: {WRITE_IT}."
        )
    return found


def _called(found: object) -> str:
    """What it is, in words."""
    if found is None:
        return "None"
    name = f"`{type(found).__name__}`"
    return (
        f"a model ({name}, an nn.Module)" if isinstance(found, nn.Module) else f"an object {name}"
    )


def _of_framework(found: object) -> Subject | None:
    """What the adapters to other frameworks make of it; they are listed as `whynan.subjects`."""
    for point in sorted(entry_points(group="whynan.subjects"), key=lambda point: point.name):
        for make in point.load():
            made: Subject | None = make(found)
            if made is not None:
                return made
    return None


def load(address: str) -> object:
    """What stands at `FILE.py:NAME` or `package.module:NAME`.

    Raises RequestError where there is no such file, module or name, or where importing it raises.
    """
    place, name = split_address(address)
    with asked_of_user(f"`{place}`"):
        module = _from_file(Path(place)) if place.endswith(".py") else _from_module(place, address)
    return _attribute(module, name, address)


def split_address(address: str) -> tuple[str, str]:
    """`FILE.py` or module on the left of the last colon, the name on its right."""
    place, _, name = address.rpartition(":")
    if not place or not name.isidentifier():
        raise RequestError(
            f"`{address}` names no subject: `FILE.py:NAME` or `package.module:NAME` was expected, "
            f"such as `{address if name.endswith('.py') else 'train.py'}:subject`."
        )
    return place, name


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise RequestError(
            f"`{path}` was not found below {Path.cwd()}: give the path of the file that holds "
            "the subject."
        )
    spec = importlib.util.spec_from_file_location(f"subject_of_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RequestError(f"`{path}` cannot be read as Python: name a `.py` file.")
    module = importlib.util.module_from_spec(spec)
    _make_importable(path.resolve().parent, at=0)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def _from_module(place: str, address: str) -> ModuleType:
    _make_importable(Path.cwd(), at=len(sys.path))
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not (place + ".").startswith(error.name + "."):
            raise  # the module is there; something that it imports is not
        raise RequestError(
            f"`{address}` cannot be loaded: there is no module `{error.name}` here; name a "
            "file (`train.py:subject`) or a module that can be imported from this folder."
        ) from error


def _make_importable(folder: Path, at: int) -> None:
    """The folder is on `sys.path`, and stays: the user's functions may import late."""
    if str(folder) not in sys.path:
        sys.path.insert(at, str(folder))


def _attribute(module: ModuleType, name: str, address: str) -> object:
    try:
        return getattr(module, name)
    except AttributeError:
        there = sorted(key for key, value in vars(module).items() if _is_own(module, key, value))
        raise RequestError(
            f"`{address}` was not found: `{module.__file__}` holds no `{name}`; of its own "
            f"it holds {', '.join(there[:12]) or 'nothing'}.{meant(name, there)}"
        ) from None


def _is_own(module: ModuleType, name: str, value: object) -> bool:
    """Whether the module can have made it, and did not just import it."""
    home = getattr(value, "__module__", module.__name__) if callable(value) else module.__name__
    return not (name.startswith("_") or isinstance(value, ModuleType)) and home == module.__name__
