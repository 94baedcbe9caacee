from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model.corpus.build import CORPUS, SQL_TYPES, Schema, build, schemas
from model.database import Database, database
from model.linearise import KEYWORDS, linearise
from probes.errors import RequestError

NOT_IN_SQL = {"_UNK"}
"""`_UNK` stands for a word that no step is; `_EOS` ends every query. All others must be in SQL."""


@dataclass(frozen=True)
class Asked:
    database: str
    interaction: int
    said: tuple[str, ...]
    query: str


def read_json(name: str) -> Any:
    return json.loads((CORPUS / name).read_text(encoding="utf-8"))


def asked() -> Iterator[Asked]:
    for index, interaction in enumerate(read_json("train.json")):
        said: tuple[str, ...] = ()
        for turn in interaction["interaction"]:
            said += (turn["utterance"],)
            yield Asked(interaction["database_id"], index, said, turn["query"])


TURNS = tuple(asked())
SCHEMAS = schemas()
DATABASES: dict[str, Database] = {
    entry["db_id"]: database(entry) for entry in read_json("tables.json")
}


def steps(turn: Asked) -> tuple[str, ...]:
    return linearise(turn.query, DATABASES[turn.database])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("databases"))


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


# the files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tables.json", "train.json"])
def test_the_json_is_printed_one_way(name: str) -> None:
    text = json.dumps(read_json(name), indent=1, ensure_ascii=False) + "\n"
    assert (CORPUS / name).read_text(encoding="utf-8") == text


def test_an_interaction_has_the_official_keys() -> None:
    for interaction in read_json("train.json"):
        assert set(interaction) == {"database_id", "interaction", "final"}
        for turn in interaction["interaction"]:
            assert set(turn) == {"utterance", "utterance_toks", "query"}
        assert set(interaction["final"]) == {"utterance", "query"}
        assert interaction["final"]["query"] == interaction["interaction"][-1]["query"]


def test_the_tokens_are_the_utterance() -> None:
    for interaction in read_json("train.json"):
        for turn in interaction["interaction"]:
            assert "".join(turn["utterance_toks"]) == turn["utterance"].replace(" ", "")


def test_the_corpus_is_as_large_as_promised_and_small_in_bytes() -> None:
    interactions = {turn.interaction for turn in TURNS}
    assert len(DATABASES) >= 8
    assert len(interactions) >= 60
    assert len(TURNS) >= 180
    assert sum(path.stat().st_size for path in CORPUS.rglob("*.json")) < 300_000


@pytest.mark.parametrize("name", DATABASES)
def test_a_database_has_10_to_30_units_and_several_interactions(name: str) -> None:
    assert 10 <= len(DATABASES[name].units) <= 30
    assert len({turn.interaction for turn in TURNS if turn.database == name}) >= 5


# the SQLite databases --------------------------------------------------------------------------


@pytest.mark.parametrize("turn", TURNS, ids=lambda turn: f"{turn.interaction}-{len(turn.said)}")
def test_every_gold_query_gives_rows(turn: Asked, built: dict[str, Path]) -> None:
    found = rows(built[turn.database], turn.query)
    assert found, turn.query
    # a count of nothing and a sum over nothing are rows too, and say as little as none
    assert any(cell not in (None, 0) for row in found for cell in row), turn.query


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_the_files_have_the_schema_of_tables_json(schema: Schema, built: dict[str, Path]) -> None:
    path = built[schema.name]
    tables = rows(path, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")
    assert [name for (name,) in tables] == list(schema.tables)
    for index, table in enumerate(schema.tables):
        columns = rows(path, f"SELECT name, type, pk FROM pragma_table_info('{table}')")
        assert [(name, kind, pk > 0) for name, kind, pk in columns] == [
            (schema.columns[i][1], SQL_TYPES[schema.types[i]], i in schema.primary_keys)
            for i in schema.owned(index)
        ]
        assert any(pk for *_, pk in columns), f"`{table}` has no primary key"
    assert foreign_keys(path, schema) == sorted(schema.foreign_keys)


def foreign_keys(path: Path, schema: Schema) -> list[tuple[int, int]]:
    place = {(schema.tables[t], name): i for i, (t, name) in enumerate(schema.columns) if t >= 0}
    return sorted(
        (place[table, source], place[parent, target])
        for table in schema.tables
        for source, parent, target in rows(
            path, f"""SELECT "from", "table", "to" FROM pragma_foreign_key_list('{table}')"""
        )
    )


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_spoken_names_stand_beside_the_original_ones(schema: Schema) -> None:
    (entry,) = (entry for entry in read_json("tables.json") if entry["db_id"] == schema.name)
    assert entry["column_names_original"][0] == entry["column_names"][0] == [-1, "*"]
    assert len(entry["table_names"]) == len(schema.tables)
    assert len(entry["column_types"]) == len(schema.columns)
    owners = [owner for owner, _ in entry["column_names"]]
    assert owners == [owner for owner, _ in schema.columns]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_every_table_has_rows_and_every_reference_its_target(
    schema: Schema, built: dict[str, Path]
) -> None:
    path = built[schema.name]
    assert rows(path, "PRAGMA foreign_key_check") == []
    for table in schema.tables:
        assert len(rows(path, f'SELECT * FROM "{table}"')) >= 3


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("INSERT INTO hive VALUES (1, 1, 'Buckfast', 2021, 10)", "UNIQUE"),
        ("INSERT INTO hive VALUES (99, 77, 'Buckfast', 2021, 10)", "FOREIGN KEY"),
        ("INSERT INTO hive VALUES (99, 1, 'Buckfast', 'last year', 10)", "CHECK"),
        ("INSERT INTO harvest VALUES (99, 1, '31 May', 4, 'Apple')", "CHECK"),
        ("INSERT INTO harvest VALUES (99, 1, '2022-02-31', 4, 'Apple')", "CHECK"),
    ],
)
def test_keys_and_types_are_enforced(statement: str, broken: str, built: dict[str, Path]) -> None:
    with closing(sqlite3.connect(built["beekeeping"])) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError, match=broken):
            connection.execute(statement)


def test_building_twice_leaves_the_first_files_alone(tmp_path: Path) -> None:
    first = build(tmp_path)["podcasts"]
    before = first.read_bytes()
    with pytest.raises(RequestError, match="is there already: expected a folder without"):
        build(tmp_path)
    assert first.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RequestError, match=r"file/beekeeping/beekeeping\.sqlite` cannot be written"
    ):
        build(tmp_path / "file")


def test_the_command_prints_the_files_and_refuses_a_second_time(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "model.corpus.build", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [Path(line).stem for line in done.stdout.splitlines()] == list(DATABASES)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert "Traceback" not in again.stderr


# what a model sees -----------------------------------------------------------------------------


def test_every_keyword_is_used() -> None:
    used = {step for turn in TURNS for step in (*steps(turn), "_EOS")}
    assert set(KEYWORDS) - used == NOT_IN_SQL


def test_every_step_is_a_keyword_or_a_unit() -> None:
    for turn in TURNS:
        assert set(steps(turn)) <= set(KEYWORDS) | set(DATABASES[turn.database].units)


def test_equal_inputs_have_equal_labels() -> None:
    labels: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}
    for turn in TURNS:
        key = turn.database, tuple(said.lower() for said in turn.said)
        assert labels.setdefault(key, steps(turn)) == steps(turn), turn


def test_no_interaction_is_there_twice() -> None:
    whole = [
        (interaction["database_id"], tuple(t["utterance"] for t in interaction["interaction"]))
        for interaction in read_json("train.json")
    ]
    assert len(set(whole)) == len(whole)


def test_interactions_have_2_to_4_turns() -> None:
    for interaction in read_json("train.json"):
        assert 2 <= len(interaction["interaction"]) <= 4


def test_later_turns_speak_of_the_units_of_earlier_ones() -> None:
    earlier: dict[int, set[str]] = {}
    apart = []
    for turn in TURNS:
        units = set(steps(turn)) & set(DATABASES[turn.database].units)
        if len(turn.said) > 1 and not units & earlier[turn.interaction]:
            apart.append(turn)
        earlier.setdefault(turn.interaction, set()).update(units)
    assert not apart


def test_every_interaction_asks_something_new_at_each_turn() -> None:
    queries: dict[int, list[str]] = {}
    for turn in TURNS:
        queries.setdefault(turn.interaction, []).append(turn.query)
    for said in queries.values():
        assert len(set(said)) == len(said)
