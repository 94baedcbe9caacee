"""The databases that utterances ask about, as lists of units that SQL can name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Database:
    """A schema as units: `*`, then for each table `table.*` and its `table.column`s, lower case."""

    name: str
    units: tuple[str, ...]


def database(schema: Mapping[str, object]) -> Database:
    """A `Database` for one entry of Spider's `tables.json`; KeyError or TypeError if it is none."""
    tables, columns = schema["table_names_original"], schema["column_names_original"]
    if not isinstance(tables, list) or not isinstance(columns, list):
        raise TypeError("table_names_original and column_names_original must be lists")
    units = ["*"]
    for index, table in enumerate(tables):
        owned = [column for owner, column in columns if owner == index]
        units += [f"{table}.{column}".lower() for column in ["*", *owned]]
    return Database(str(schema["db_id"]), tuple(units))
