"""The databases that utterances ask about, as lists of units that SQL can name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from probes.errors import RequestError


@dataclass(frozen=True, slots=True)
class Database:
    """A schema as units: `*`, then for each table `table.*` and its `table.column`s, lower case."""

    name: str
    units: tuple[str, ...]

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Table -> its columns, both in the order of the schema."""
        columns: dict[str, list[str]] = {}
        for unit in self.units[1:]:
            table, column = unit.split(".", 1)
            columns.setdefault(table, []).append(column)
        return {table: tuple(names[1:]) for table, names in columns.items()}


def database(schema: Mapping[str, object]) -> Database:
    """A `Database` for one entry of a Spider `tables.json`; `KeyError` or `TypeError` if it is none."""
    tables, columns = schema["table_names_original"], schema["column_names_original"]
    if not isinstance(tables, list) or not isinstance(columns, list):
        raise TypeError("table_names_original and column_names_original must be lists")
    units = ["*"]
    for index, table in enumerate(tables):
        owned = [column for owner, column in columns if owner == index]
        units += [f"{table}.{column}".lower() for column in ["*", *owned]]
    return Database(str(schema["db_id"]), tuple(units))


def unknown_database(name: str, known: Iterable[str], asker: str, tables: str) -> RequestError:
    """The error for a database id, asked for by `asker`, that `tables` does not hold."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3)
    found = "closest: " + ", ".join(close) if close else "for example " + ", ".join(names[:5])
    return RequestError(
        f"database id `{name}` ({asker}) is not in `{tables}`: expected one of its {len(names)} ids,"
        f" {found}; correct the id or pass the tables.json that has it"
    )
