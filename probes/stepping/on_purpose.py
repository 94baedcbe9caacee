"""What says that one module stands in a row several times on purpose, as by depth."""

from __future__ import annotations

import re

from torch import nn

SAID = re.compile(
    r"(?:^|_)(?:shar(?:e|es|ed|ing)|universal|albert|loop(?:ed|s)?|recursive|tied|unrolled|reused?)"
    r"(?=_|$)"
)
BY_DEPTH = re.compile(
    r"(?:^|_)(?:depths?|layers?|levels?|steps?|hops?|loops?|iterations?|blocks?)(?=_|$)"
)
_JOINT = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def on_purpose(model: nn.Module, row: str, count: int) -> str | None:
    """How, in words; None where nothing says so.

    row: the list or sequence that holds the module so many times. A parameter beside it, or an
    embedding whose name speaks of depth, has one row for each time; or a class or an attribute
    around it says that it is shared.
    """
    place = row.rpartition(".")[0]
    owner = model.get_submodule(place)
    for name, parameter in owner.named_parameters(recurse=False):
        if parameter.ndim and len(parameter) == count:
            return f"`{_joined(place, name)}` has {count} entries, one for each time"
    for name, child in owner.named_children():
        known = isinstance(child, nn.Embedding) and child.num_embeddings == count
        if known and BY_DEPTH.search(_snake(name)):
            return f"`{_joined(place, name)}` has {count} entries, one for each time"
    return _word(model, row)


def _word(model: nn.Module, row: str) -> str | None:
    parts = row.split(".")
    around = [model.get_submodule(".".join(parts[:i])) for i in range(len(parts))]
    classes = [type(each).__name__ for each in around]
    attributes = [name for name in vars(around[-1]) if not name.startswith("_")]
    for word in (*classes, *parts, *attributes):
        if SAID.search(_snake(word)):
            return f"`{word}` says so"
    return None


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _snake(word: str) -> str:
    return _JOINT.sub("_", word).lower()
