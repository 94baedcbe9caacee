"""SQLite databases of the embedded corpus, so that its gold SQL can be executed."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.errors import RequestError

CORPUS = Path(__file__).parent
SQL_TYPES: Mapping[str, str] = {"number": "NUMERIC", "text": "TEXT", "time": "DATE"}
"""SParC's column type -> the type it is declared with; all that the corpus uses."""

# SQLite's types are only affinities: without a check it stores any text in a NUMERIC column.
# `+0 days` makes it count the days of the month: bare `date('2022-02-31')` is itself.
_CHECKS: Mapping[str, str] = {
    "number": " CHECK (typeof({0}) IN ('integer', 'real', 'null'))",
    "text": "",
    "time": " CHECK ({0} IS date({0}, '+0 days'))",
}


@dataclass(frozen=True, slots=True)
class Schema:
    """One entry of `tables.json`; columns are indexed over all tables, 0 being `*`."""

    name: str
    tables: tuple[str, ...]
    columns: tuple[tuple[int, str], ...]
    types: tuple[str, ...]
    primary_keys: frozenset[int]
    foreign_keys: tuple[tuple[int, int], ...]

    def owned(self, table: int) -> list[int]:
        """Indices of the columns of one table, in order."""
        return [index for index, (owner, _) in enumerate(self.columns) if owner == table]


def schemas(path: Path = CORPUS / "tables.json") -> tuple[Schema, ...]:
    """The schemas of a `tables.json`, in its order."""
    return tuple(_schema(entry) for entry in json.loads(path.read_text(encoding="utf-8")))


def build(folder: Path) -> dict[str, Path]:
    """Every database lies at `folder/NAME/NAME.sqlite`, SParC's own layout; name -> path.

    Raises RequestError, before anything is written, where such a file is there already, and
    where the folder cannot be written.
    """
    paths = {known.name: folder / known.name / f"{known.name}.sqlite" for known in schemas()}
    for path in paths.values():
        if path.exists():
            raise RequestError(
                f"`{path}` is there already: expected a folder without the corpus's databases;"
                " name another folder or remove it"
            )
    for known in schemas():
        try:
            paths[known.name].parent.mkdir(parents=True, exist_ok=True)
            _write(known, paths[known.name])
        except (OSError, sqlite3.OperationalError) as error:
            raise RequestError(
                f"`{paths[known.name]}` cannot be written: {error}; name a folder that can be"
            ) from error
    return paths


def _schema(entry: Mapping[str, Any]) -> Schema:
    return Schema(
        name=entry["db_id"],
        tables=tuple(entry["table_names_original"]),
        columns=tuple((owner, column) for owner, column in entry["column_names_original"]),
        types=tuple(entry["column_types"]),
        primary_keys=frozenset(entry["primary_keys"]),
        foreign_keys=tuple((source, target) for source, target in entry["foreign_keys"]),
    )


def _write(schema: Schema, path: Path) -> None:
    rows = json.loads((CORPUS / "rows" / f"{schema.name}.json").read_text(encoding="utf-8"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        for index, table in enumerate(schema.tables):
            connection.execute(_create(schema, index))
            places = ", ".join("?" * len(schema.owned(index)))
            connection.executemany(f'INSERT INTO "{table}" VALUES ({places})', rows[table])


def _create(schema: Schema, table: int) -> str:
    owned = schema.owned(table)
    lines = [_column(schema.columns[index][1], schema.types[index]) for index in owned]
    lines.append(f"PRIMARY KEY ({_names(schema, [i for i in owned if i in schema.primary_keys])})")
    lines += _references(schema, owned)
    return f'CREATE TABLE "{schema.tables[table]}" ({", ".join(lines)})'


def _column(name: str, kind: str) -> str:
    return f'"{name}" {SQL_TYPES[kind]}' + _CHECKS[kind].format(f'"{name}"')


def _references(schema: Schema, owned: Sequence[int]) -> Iterator[str]:
    for source, target in schema.foreign_keys:
        if source in owned:
            parent = schema.tables[schema.columns[target][0]]
            names = _names(schema, [source]), _names(schema, [target])
            yield f'FOREIGN KEY ({names[0]}) REFERENCES "{parent}" ({names[1]})'


def _names(schema: Schema, indices: Sequence[int]) -> str:
    return ", ".join(f'"{schema.columns[index][1]}"' for index in indices)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status of the command, after it built the databases and printed their paths."""
    parser = argparse.ArgumentParser(prog="python -m model.corpus.build", description=__doc__)
    parser.add_argument("folder", type=Path, help="where NAME/NAME.sqlite is written")
    try:
        for path in build(parser.parse_args(arguments).folder).values():
            print(path)
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
