"""What the names of a frame stood for, as far as they may be changed by what runs next."""

from __future__ import annotations

import functools
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nan_watch.inquest.glimpse import glimpse
from nan_watch.origin.sources import Kind, kind_of
from probes.replay import Snapshot
from probes.states.attributes import OWN
from probes.states.remembered import remembers

COPIED = (list, dict, set, deque, Counter, OrderedDict, defaultdict)
LARGEST = 4096  # entries of a container that is copied


@dataclass(frozen=True, slots=True)
class Names:
    """Containers are copied, and so are those in attributes of objects, which are `owned`."""

    code: CodeType
    globals: dict[str, Any]
    values: Mapping[str, Any]
    owned: tuple[tuple[Any, Mapping[str, Any]], ...] = ()

    @classmethod
    def of(cls, frame: FrameType, wanted: Iterable[str]) -> Names:
        """Those that the frame knows of the wanted ones."""
        known = seen(frame, wanted)
        owned = [(each, copies(vars(each))) for each in known.values() if _is_users(each)]
        return cls(frame.f_code, frame.f_globals, copies(known), tuple(owned))


def seen(frame: FrameType, names: Iterable[str]) -> dict[str, Any]:
    """What the frame's code sees by these names now."""
    local, outside = glimpse(frame), frame.f_globals
    return {n: local[n] if n in local else outside[n] for n in names if n in local or n in outside}


def copies(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, those that are small containers copied."""
    return {name: _copy(value) for name, value in values.items()}


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """What stands in it past what every module has, copied."""
    return copies({name: each for name, each in vars(module).items() if name not in OWN})


def undo(value: Any, model: nn.Module) -> Callable[[], None]:
    """Called, it gives the value back what it holds now; the model is given back by its replay."""
    if not isinstance(value, nn.Module):
        return remembers(value)
    if any(value is each for each in model.modules()):
        return lambda: None
    return Snapshot.take(value, parameters=True).restore


@functools.lru_cache(maxsize=256)
def is_of_user(module: str) -> bool:
    """Whether a class of that module is the user's own."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and kind_of(file) is Kind.USER


def _copy(value: Any) -> Any:
    return value.copy() if type(value) in COPIED and len(value) <= LARGEST else value


def _is_users(value: Any) -> bool:
    """Whether it is an object of a class of the user's own that no replay gives back."""
    if isinstance(value, (type, nn.Module, Optimizer)) or not hasattr(value, "__dict__"):
        return False
    return is_of_user(type(value).__module__)
