"""The runs of the experiment log, read from `experiments.toml`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from model.config import Config, from_json
from model.faults import Faults
from probes.errors import RequestError

Mark = Literal["stated", "carried", "inferred"]
PATH = Path(__file__).with_name("experiments.toml")


@dataclass(frozen=True, slots=True)
class Experiment:
    """One run of the log.

    name: the run's, as TensorBoard gave it. entry: its number in the log. marks: field to whether
    its value is stated by this entry, carried over from an earlier one, or inferred by us.
    remark: what the author saw.
    """

    name: str
    entry: str
    config: Config
    faults: Faults
    marks: Mapping[str, Mark]
    remark: str


@cache
def experiments() -> tuple[Experiment, ...]:
    """Every run of the log, in its order."""
    with PATH.open("rb") as file:
        return tuple(read(name, table) for name, table in tomllib.load(file).items())


def experiment(name: str) -> Experiment:
    """The run of this name. Raises RequestError that lists the closest where there is none."""
    found = {each.name: each for each in experiments()}
    if name not in found:
        close = difflib.get_close_matches(name, found, n=3, cutoff=0.4) or list(found)[:3]
        raise RequestError(
            f"`{name}` is no run of the log: expected one of the {len(found)} names in "
            f"`{PATH.name}`, closest: {', '.join(close)}; correct the name"
        )
    return found[name]


def read(name: str, table: Mapping[str, Any]) -> Experiment:
    """The run that a table of the file tells of.

    Raises RequestError where a field of the configuration is missing, stands twice or is unknown.
    """
    values: dict[str, Any] = {}
    marks: dict[str, Mark] = {}
    for mark in get_args(Mark):
        for key, value in table.get(mark, {}).items():
            if key in values:
                raise RequestError(f"`{key}` of run `{name}` stands twice; leave one of them out")
            values[key] = None if value == "none" and key in _MAY_BE_NONE else value
            marks[key] = mark
    missing = [each.name for each in fields(Config) if each.name not in values]
    if missing:
        raise RequestError(
            f"run `{name}` lacks {', '.join(f'`{key}`' for key in missing)}: every field of the "
            "configuration is expected; write them out"
        )
    faults = Faults(**table["faults"])
    return Experiment(name, table["entry"], from_json(values), faults, marks, table["remark"])


_MAY_BE_NONE = {each.name for each in fields(Config) if "None" in str(each.type)}
"""Fields in which "none" is Python's None: TOML has no word for it."""
