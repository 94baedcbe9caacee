"""The forms of text-to-SQL files, told by their content and brought to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.json_file import documents
from probes.errors import RequestError

_EXPECTED = (
    "expected a list of interactions (`database_id`, `interaction` with `utterance` and `query`),"
    " of questions (`db_id`, `question`, `query`), or interactions one after another with linear"
    " `sql`; convert it to one of these"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """An utterance with its SQL as the file has it; `linear` where it is steps already."""

    utterance: str
    sql: str
    linear: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One interaction as the file has it, at place `index`."""

    database: str
    turns: tuple[Asked, ...]
    index: int


def entries(path: Path) -> list[Entry]:
    """The interactions of a file in whichever form; Spider's questions have one turn each.

    Raises `RequestError` where an interaction is in no known form or there is none.
    """
    found = documents(path)
    items = found[0] if len(found) == 1 and isinstance(found[0], list) else found
    if not items:
        raise RequestError(
            f"`{path}` has no interactions: found an empty {'list' if found else 'file'};"
            f" {_EXPECTED}"
        )
    return [_entry(item, place, path) for place, item in enumerate(items)]


def _entry(item: object, place: int, path: Path) -> Entry:
    asker = f"interaction {place} of `{path}`"
    match item:
        case {"database_id": str(database), "interaction": list(turns)}:
            asked = tuple(_asked(turn, f"turn {n} of {asker}") for n, turn in enumerate(turns))
            return Entry(database, asked, place)
        case {"db_id": str(database), "question": str(utterance), "query": str(query)}:
            return Entry(database, (Asked(utterance, query, linear=False),), place)
    raise RequestError(f"{asker} is in no known form: found {_kind(item)}; {_EXPECTED}")


def _asked(turn: object, asker: str) -> Asked:
    match turn:  # the official form has `sql` too, as a tree
        case {"utterance": str(utterance), "query": str(query)}:
            return Asked(utterance, query, linear=False)
        case {"utterance": str(utterance), "sql": str(line)}:
            return Asked(utterance, line, linear=True)
    raise RequestError(f"{asker} is in no known form: found {_kind(turn)}; {_EXPECTED}")


def _kind(found: object) -> str:
    if isinstance(found, Mapping):
        return "the keys " + ", ".join(f"`{key}`" for key in found)
    return f"{type(found).__name__} {str(found)[:40]!r}"
