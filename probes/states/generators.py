"""Random generators that a module or a function has for itself, and where they stand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch

FUNCTIONS = (FunctionType, MethodType, partial)
OWN = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
DEEP = 4  # functions within each other

Standing = tuple[Any, Any]
"""A generator, with where it stood."""


def of_modules(modules: Iterable[torch.nn.Module]) -> list[Any]:
    """Those that stand in plain attributes, each once."""
    return _once(each for module in modules for each in vars(module).values())


def of_function(function: Callable[..., Any] | None, deep: int = DEEP) -> list[Any]:
    """Those that the function sees by name, or its owner has, each once."""
    return _once(_seen(function, deep))


def standing(generators: Iterable[Any]) -> tuple[Standing, ...]:
    """Where they stand now; none of them moves, and no device is read."""
    return tuple([(each, _state(each)) for each in generators])


def give_back(standings: Sequence[Standing]) -> None:
    """Each stands where it stood."""
    for generator, state in standings:
        if isinstance(generator, torch.Generator):
            generator.set_state(state)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = state
        elif isinstance(generator, np.random.RandomState):
            generator.set_state(state)
        else:
            generator.setstate(state)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()


def _once(values: Iterable[Any]) -> list[Any]:
    found = (v for v in values if isinstance(v, OWN) and not isinstance(v, random.SystemRandom))
    return list({id(each): each for each in found}.values())


def _seen(function: Any, deep: int) -> Iterator[Any]:
    """What a call of it reads by name, and what the functions among that read."""
    if not deep:
        return
    for each in _known(function):
        yield each
        if isinstance(each, FUNCTIONS):
            yield from _seen(each, deep - 1)


def _known(function: Any) -> Iterator[Any]:
    if isinstance(function, partial):
        yield from (function.func, *function.args, *function.keywords.values())
    elif isinstance(function, MethodType):
        yield from (function.__func__, *getattr(function.__self__, "__dict__", {}).values())
    elif isinstance(function, FunctionType):
        yield from map(function.__globals__.get, function.__code__.co_names)
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # it holds nothing yet
                yield cell.cell_contents
