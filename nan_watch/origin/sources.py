"""Where the code stands: the user's own source line, and the module that is running."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import FrameType

import torch
from torch import nn
from torch.optim import Optimizer

from probes.sisters import SISTERS

HOME = Path(__file__).resolve().parents[2]
INSTRUMENTS = tuple(f"{HOME / name}{os.sep}" for name in SISTERS)
LOOP = str(HOME / "probes" / "loop.py")  # what called it is not the user's
PACKAGES = ("site-packages", "dist-packages")
INTERACTIVE = ("<stdin>", "<ipython", "<python-input")
TORCH = f"{Path(torch.__file__).parent}{os.sep}"
ENGINE = f"{TORCH}autograd{os.sep}graph.py"
CHECKPOINT = f"{TORCH}utils{os.sep}checkpoint.py"
STANDARD = tuple(
    f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "scripts")
)


OPTIMIZER = "<optimizer>"
COMPREHENSIONS = ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")


class Kind(Enum):
    """Whose code a file is."""

    USER = "user"
    LIBRARY = "library"
    TORCH = "torch"
    HIDDEN = "hidden"


@dataclass(frozen=True, slots=True)
class RnnStep:
    """A place within a recurrence: which layer and direction, the how-manieth step, which gate.

    `order` counts the steps in the order in which they are computed: backwards in time where the
    direction is `reverse`. A cell that is called by itself has no layer and no direction.
    """

    call: int
    layer: int | None
    direction: str | None
    order: int | None
    gate: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an operator was called.

    site: module's dotted name, `<loss>` outside the model, `<optimizer>` in an optimizer's own
    code. source: `file.py:line`, or None. library: the innermost line of a library's own code,
    outside torch, which the source calls or is: `package/file.py:line`; None where there is none.
    custom: whether the line stands in a user's own backward or a hook, not in a forward pass.
    recomputed: whether it is a forward pass repeated within the backward one (checkpointing).
    """

    site: str
    source: str | None
    custom: bool = False
    recomputed: bool = False
    rnn: RnnStep | None = None
    library: str | None = None

    @property
    def innermost(self) -> str | None:
        """The innermost line of anybody's."""
        return self.library or self.source

    @property
    def at(self) -> str:
        """Where it stands in words, after the operator's name: ` at train.py:3`."""
        return in_words(self.source, self.library)


def in_words(source: str | None, library: str | None) -> str:
    """` at train.py:3`, and the library's own line where the source calls it; else nothing."""
    if source is None:
        return ""
    inside = library is not None and not source.endswith(library)
    return f" at {source} (in {library})" if inside else f" at {source}"


def module_names(model: nn.Module) -> dict[int, str]:
    """Every module's id with its first dotted name; the model itself is `model`.

    Where the model has a child of that name, it is `<model>`.
    """
    taken = any(name == "model" for name, _ in model.named_children())
    root = "<model>" if taken else "model"
    return {id(module): name or root for name, module in model.named_modules()}


def here(names: Mapping[int, str]) -> Place:
    """The place of the operator that is being called, from the Python stack.

    The line is that of the innermost frame of the user's own; where there is none, of the
    innermost library outside torch. Within a backward pass only what runs in Python there has a
    line: the user's own backward, a hook, or a forward pass that is recomputed.
    """
    line: str | None = None
    library: str | None = None
    site: str | None = None
    recomputed = False
    updates: bool | None = None  # whether the innermost function of anybody's is an optimizer's
    inside = torch._C._current_graph_task_id() != -1
    for frame in _frames():
        file = frame.f_code.co_filename
        if file == LOOP or (inside and file == ENGINE):
            break
        kind = kind_of(file)
        updates = _is_update(frame, kind) if updates is None else updates
        recomputed = recomputed or file == CHECKPOINT
        if line is None and kind is Kind.USER:
            line = address(file, frame.f_lineno)
        elif line is None and library is None and kind is Kind.LIBRARY:
            library = address(file, frame.f_lineno)
        if site is None:
            site = _module(frame, kind, names)
        if line is not None and site is not None and not inside:
            break
    site = OPTIMIZER if updates else site or "<loss>"
    return Place(
        site,
        line or library,
        custom=inside,
        recomputed=inside and recomputed,
        library=None if library is None else _installed(library),
    )


def _frames() -> Iterator[FrameType]:
    frame = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def _is_update(frame: FrameType, kind: Kind) -> bool | None:
    """Whether the frame is a method of an optimizer; None where it decides nothing.

    That is so of torch's functions and ours, and of comprehensions, which stand in another frame.
    """
    code = frame.f_code
    if kind is Kind.HIDDEN or code.co_name in COMPREHENSIONS:
        return None
    method = code.co_argcount > 0 and code.co_varnames[0] == "self"
    if method and isinstance(frame.f_locals.get("self"), Optimizer):
        return True
    return None if kind is Kind.TORCH else False


def _module(frame: FrameType, kind: Kind, names: Mapping[int, str]) -> str | None:
    """The name of the module whose method the frame runs, if it is one of the model's."""
    code = frame.f_code
    if kind is Kind.HIDDEN or not code.co_argcount or code.co_varnames[0] != "self":
        return None
    if kind is Kind.TORCH and code.co_name not in ("_call_impl", "forward"):
        return None
    return names.get(id(frame.f_locals.get("self")))


@functools.cache
def kind_of(file: str) -> Kind:
    """Whose code the file is: the user's own, a library's, torch's, or none to be shown."""
    if file.startswith("<"):
        return Kind.USER if file.startswith(INTERACTIVE) else Kind.HIDDEN
    if file.startswith(TORCH):
        return Kind.TORCH
    if file.startswith(INSTRUMENTS):
        return Kind.HIDDEN
    if any(f"{os.sep}{each}{os.sep}" in file for each in PACKAGES):
        return Kind.LIBRARY
    return Kind.HIDDEN if file.startswith(STANDARD) else Kind.USER


def _installed(address: str) -> str:
    """The address below the folder that packages are installed in."""
    parts = Path(address).parts
    homes = [i for i, part in enumerate(parts) if part in PACKAGES]
    return str(Path(*parts[homes[-1] + 1 :])) if homes else address


def address(file: str, line: int) -> str:
    """`file.py:line`, relative to the working folder where it lies below."""
    path, folder = Path(os.path.abspath(file)), Path.cwd()
    return f"{path.relative_to(folder) if path.is_relative_to(folder) else path}:{line}"
