"""How the subject's code calls the classes: lists, mappings and enumerations of so many names."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from enum import EnumMeta
from typing import Any

from probes.subject import Subject

NOTHING = re.compile(
    r"pad|ignore|none|null|void|unk|blank|mask|skip|missing|unlabel|unannot|start|[cb]os|eos|cls"
    r"|sep\b|^x$|^n/?a$|^[\W_]*$",
    re.IGNORECASE,
)
"""What a class is called that is none: padding, special tokens, places without a label."""

END = re.compile(r"(^|_)(eos|eot|end|stop)(_|$)", re.IGNORECASE)
"""What a variable or a setting is called that holds the id that ends a text."""

SPELT = re.compile(r"^[<\[].*(/s|eo[st]|end|stop).*[>\]]$|^eos$", re.IGNORECASE)
"""How a vocabulary spells it."""

Names = tuple[str, ...]


def class_names(subject: Subject, count: int) -> list[Names]:
    """Every way in which so many classes are called, in the order of their numbers.

    Looked for where the subject's functions and the model's class were written, and on the model,
    its configuration and the data.
    """
    found = [names for each in _values(subject) if (names := _names(each, count)) is not None]
    return list(dict.fromkeys(found))


def name_of(subject: Subject, count: int, kind: int) -> str | None:
    """What that class of so many is called; None where that is not one name."""
    found = {names[kind] for names in class_names(subject, count)}
    return found.pop() if len(found) == 1 else None


def ends_called(subject: Subject) -> set[int]:
    """Whole numbers that are called an end: by a variable, a setting, or in a vocabulary."""
    found = set()
    for space in _spaces(subject):
        for name, value in list(space.items()):
            if type(value) is int and END.search(str(name)):
                found.add(value)
            elif isinstance(value, (list, tuple)):
                found |= {i for i, each in enumerate(value) if _spells_end(each)}
            elif isinstance(value, dict):
                pairs = [*value.items(), *((held, key) for key, held in value.items())]
                found |= {i for word, i in pairs if type(i) is int and _spells_end(word)}
    return found


def _spells_end(word: object) -> bool:
    return isinstance(word, str) and SPELT.search(word) is not None


def _values(subject: Subject) -> Iterator[Any]:
    """What is called anything there."""
    for space in _spaces(subject):
        yield from list(space.values())


def _spaces(subject: Subject) -> Iterator[Mapping[str, Any]]:
    for function in (subject.loss, subject.predict, subject.train_step):
        plain = inspect.unwrap(function) if callable(function) else None
        plain = getattr(plain, "__func__", plain)
        if inspect.isfunction(plain):
            yield plain.__globals__
            yield dict(inspect.getclosurevars(plain).nonlocals)
    module = sys.modules.get(type(subject.model).__module__)
    if module is not None and not module.__name__.startswith("torch"):
        yield vars(module)
    data = getattr(subject.batches, "dataset", subject.batches)
    held: tuple[Any, ...] = (subject.model, getattr(subject.model, "config", None), data)
    for each in held:
        yield getattr(each, "__dict__", {})


def _names(value: Any, count: int) -> Names | None:
    """The names of classes from 0 on that it holds; None where it does not hold so many."""
    if isinstance(value, EnumMeta):
        members: Mapping[str, Any] = value.__members__
        value = {name: member.value for name, member in members.items()}
    if isinstance(value, (list, tuple)) and len(value) == count:
        named = dict(enumerate(value))
    elif isinstance(value, dict) and len(value) == count:
        turned = all(isinstance(key, str) for key in value)
        named = {number: key for key, number in value.items()} if _are_whole(value) else {}
        named = named if turned else dict(value)
    else:
        return None
    if len(named) != count or set(map(type, named)) != {int} or set(named) != set(range(count)):
        return None
    names = tuple(named[number] for number in range(count))
    apart = all(isinstance(each, str) for each in names) and len(set(names)) == count
    return names if apart else None


def _are_whole(value: Mapping[Any, Any]) -> bool:
    return all(type(number) is int for number in value.values())
