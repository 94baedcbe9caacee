"""Reads the tensors of a checkpoint one by one; never runs a pickle that is not trusted."""

from __future__ import annotations

import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from nan_watch.autopsy.places import Place, is_optimizer
from probes.errors import RequestError

Loads = dict[str, Callable[[], Tensor]]
"""Each tensor by its name, read when it is called for."""


@contextmanager
def tensors_of(place: Place, trust: bool = False) -> Iterator[Loads]:
    """The tensors of the checkpoint by name; a file of safetensors is read tensor by tensor.

    trust: a pickle that holds more than tensors is run. Raises RequestError where a file cannot
    be read, or holds more and is not trusted.
    """
    with ExitStack() as open_files:
        found: Loads = {}
        for path in place.files:
            if path.suffix == ".safetensors":
                loads = _safetensors(path, open_files)
            else:
                loads = {name: _held(tensor) for name, tensor in walk(_pickle(path, trust))}
            for name, load in loads.items():
                found[_called(name, path, found)] = load
        if not found:
            raise RequestError(
                f"`{place.files[0]}` holds no tensor: name a checkpoint with weights in it."
            )
        yield found


def _called(name: str, path: Path, taken: Mapping[str, object]) -> str:
    """The name, with the file's where it is the optimizer's or the name is taken."""
    if is_optimizer(path) and not name.startswith("optim"):
        return f"optimizer.{name}"
    return f"{path.stem}.{name}" if name in taken else name


def _held(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor


def _safetensors(path: Path, open_files: ExitStack) -> Loads:
    from safetensors import SafetensorError, safe_open

    try:
        handle = open_files.enter_context(safe_open(path, "pt", device="cpu"))
        names = list(handle.keys())
    except (SafetensorError, OSError) as error:
        raise RequestError(_unreadable(path, error)) from error

    def loader(name: str) -> Callable[[], Tensor]:
        def load() -> Tensor:
            tensor: Tensor = handle.get_tensor(name)
            return tensor

        return load

    return {name: loader(name) for name in names}


def _pickle(path: Path, trust: bool) -> object:
    mapped = zipfile.is_zipfile(path)  # only the newer format can be read page by page
    if trust and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # where the pickle's own classes may live
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols and TorchScript
            return torch.load(
                path, map_location="cpu", weights_only=not trust, mmap=mapped and not trust
            )
    except Exception as error:  # a broken pickle may raise anything
        if not trust and _wants_more(error):
            raise RequestError(_refused(path, str(error))) from None
        raise RequestError(_unreadable(path, error)) from error


def _wants_more(error: Exception) -> bool:
    if isinstance(error, UnpicklingError):
        return re.search("unsupported|GLOBAL", str(error), re.IGNORECASE) is not None
    return "TorchScript" in str(error)


def _refused(path: Path, said: str) -> str:
    named = re.search(r"(?:GLOBAL|class) ([\w.]+\.\w+)", said)
    what = "a TorchScript program" if "TorchScript" in said else "more than tensors and numbers"
    of = f" (`{named[1]}`)" if named else ""
    return (
        f"`{path}` holds {what}{of}, and to load it is to run what it says: save the model's "
        "`state_dict()` alone, or, if you trust where the file came from, add `--trust`."
    )


def _unreadable(path: Path, error: Exception) -> str:
    said = str(error).strip().split("\n")[0].removesuffix(".")[:160]
    return (
        f"`{path}` cannot be read as a checkpoint ({type(error).__name__}"
        f"{': ' + said if said else ''}): it is no checkpoint, or it was cut or changed; copy or "
        "save it again, or name another."
    )


def walk(value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a nest of mappings, lists and modules, with its dotted path."""
    if isinstance(value, Tensor):
        yield name or "tensor", value.detach()
        return
    for key, item in _items(value):
        yield from walk(item, f"{name}.{key}" if name else str(key))


def _items(value: object) -> Iterator[tuple[Any, object]]:
    if isinstance(value, nn.Module):
        yield from value.state_dict().items()
    elif isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
