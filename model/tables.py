"""`tables.json`, the schemas in Spider's form: where it lies and what it holds."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from model.database import Database, database
from model.json_file import documents
from probes.errors import RequestError


def read_tables(path: Path) -> dict[str, Database]:
    """Database id -> `Database`, in the order of the file."""
    found = documents(path)
    if len(found) != 1 or not isinstance(found[0], list):
        raise RequestError(
            f"`{path}` is not a tables.json: expected one JSON list of schemas; pass such a file"
        )
    databases = [_database(schema, place, path) for place, schema in enumerate(found[0])]
    return {one.name: one for one in databases}


def find_tables(file: Path) -> Path:
    """The `tables.json` nearest to a file: beside it, in a folder beside it, or one level up."""
    for folder in (file.parent, file.resolve().parent.parent):
        for path in (folder / "tables.json", *sorted(folder.glob("*/tables.json"))):
            if path.is_file():
                return path
    raise RequestError(
        f"no `tables.json` for `{file}`: looked beside it, in the folders beside it and one level"
        " up; put the schemas there or say where they are"
    )


def unknown_database(name: str, known: Iterable[str], asker: str, tables: Path) -> RequestError:
    """The error for a database id, asked for by `asker`, that `tables` does not hold."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3)
    found = "closest: " + ", ".join(close) if close else "for example " + ", ".join(names[:5])
    return RequestError(
        f"database id `{name}` of {asker} is not in `{tables}`: expected one of its"
        f" {len(names)} ids ({found}); correct the id or pass the tables.json that has it"
    )


def _database(schema: object, place: int, path: Path) -> Database:
    try:
        if isinstance(schema, Mapping):
            return database(schema)
        found = f"a {type(schema).__name__}"
    except (KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
    raise RequestError(
        f"entry {place} of `{path}` is no schema (found {found}): expected db_id,"
        " table_names_original and column_names_original; correct the entry"
    )
