from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from model.read import Corpus, Interaction, Turn, Unreadable, embedded, read
from probes.errors import RequestError

SPARC = Path(
    os.environ.get("WHYNAN_SPARC", Path(__file__).parents[3] / "shared" / "data" / "sparc")
)
needs_sparc = pytest.mark.skipif(not SPARC.is_dir(), reason=f"SParC is not at {SPARC}")
SCHEMA = {
    "db_id": "zoo",
    "table_names_original": ["Animal"],
    "column_names_original": [[-1, "*"], [0, "ID"], [0, "Name"]],
}
ALL = Turn("Show all animals.", "SELECT * FROM Animal", ("select", "animal.*"))
NAMES = Turn("Their names?", "SELECT Name FROM Animal", ("select", "animal.name"))


def official(*turns: Turn, database: str = "zoo", **other: object) -> dict[str, object]:
    asked = [
        {"utterance": turn.utterance, "utterance_toks": [], "query": turn.query, "sql": {}}
        for turn in turns
    ]
    return {"database_id": database, "interaction": asked, "final": {}, **other}


def editsql(*lines: tuple[str, str], database: str = "zoo") -> dict[str, object]:
    asked = [{"utterance": utterance, "sql": line} for utterance, line in lines]
    return {"id": "", "database_id": database, "interaction_id": 0, "interaction": asked}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tables.json").write_text(json.dumps([SCHEMA]))
    return tmp_path


def write(folder: Path, *documents: Any, name: str = "train.json") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps(document, indent=1) for document in documents))
    return path


def sentence(path: Path, tables: Path | None = None, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        read(path, tables, **options)
    return str(caught.value)


def test_the_official_form_gives_interactions(folder: Path) -> None:
    corpus = read(write(folder, [official(ALL, NAMES), official(NAMES)]))
    assert corpus.interactions == (
        Interaction("zoo", (ALL, NAMES), 0),
        Interaction("zoo", (NAMES,), 1),
    )
    assert corpus.databases["zoo"].units == ("*", "animal.*", "animal.id", "animal.name")
    assert corpus.unreadable == ()


def test_the_other_keys_of_cosql_do_no_harm(folder: Path) -> None:
    item = official(ALL, NAMES, goal="Find names", scenario=3, dialog_acts=[["INFORM_SQL"]])
    assert read(write(folder, [item])).interactions == (Interaction("zoo", (ALL, NAMES), 0),)


def test_a_question_of_spider_is_an_interaction_of_one_turn(folder: Path) -> None:
    asked = {"db_id": "zoo", "question": ALL.utterance, "query": ALL.query, "query_toks": []}
    other = {**asked, "question": NAMES.utterance, "query": NAMES.query}
    assert read(write(folder, [asked, other])).interactions == (
        Interaction("zoo", (ALL,), 0),
        Interaction("zoo", (NAMES,), 1),
    )


def test_the_form_of_editsql_is_split_and_what_is_unknown_is_counted(folder: Path) -> None:
    first = editsql(("Show all animals.", "select animal.*"), ("Cages?", "select cage.size , id"))
    second = editsql(("How many?", "select count ( animal.* )"))
    corpus = read(write(folder, first, second))
    assert [turn.steps for one in corpus.interactions for turn in one.turns] == [
        ("select", "animal.*"),
        ("select", "_UNK", ",", "_UNK"),
        ("select", "count", "(", "animal.*", ")"),
    ]
    assert corpus.unknown == 2


def test_one_document_of_the_editsql_form_is_one_interaction(folder: Path) -> None:
    corpus = read(write(folder, editsql(("Show all animals.", "select animal.*"))))
    assert [one.index for one in corpus.interactions] == [0]


def test_an_interaction_without_turns_is_reported_and_keeps_its_place(folder: Path) -> None:
    corpus = read(write(folder, editsql(), editsql(("Show all.", "select animal.*"))))
    assert [one.index for one in corpus.interactions] == [1]
    assert corpus.unreadable == (Unreadable(0, None, "", "the interaction has no turn"),)


BROKEN = Turn("Which is not Leo?", "SELECT id FROM Animal WHERE Name ! = 'Leo'", ())


def test_sql_that_does_not_parse_is_reported_with_its_place(folder: Path) -> None:
    path = write(folder, [official(ALL), official(NAMES, BROKEN, NAMES)])
    assert sentence(path) == (
        f"`{path}` has 1 of 4 queries that give no steps: interaction 1, turn 1:"
        f" `{BROKEN.query}` (it does not parse: `!` alone at character 33);"
        " expected one SELECT over its database; correct them or ask to skip them"
    )


def test_sql_that_does_not_parse_is_skipped_when_asked(folder: Path) -> None:
    path = write(folder, [official(BROKEN), official(NAMES, BROKEN, ALL)])
    corpus = read(path, skip_unparsed=True)
    assert corpus.interactions == (Interaction("zoo", (NAMES, ALL), 1),)
    assert [(one.interaction, one.turn, one.query) for one in corpus.unreadable] == [
        (0, 0, BROKEN.query),
        (1, 1, BROKEN.query),
    ]


def test_more_than_three_queries_that_do_not_parse_are_counted(folder: Path) -> None:
    path = write(folder, [official(*[BROKEN] * 5)])
    assert "has 5 of 5 queries" in sentence(path)
    assert "; and 2 more; expected" in sentence(path)


def test_nothing_left_after_skipping_is_an_error(folder: Path) -> None:
    path = write(folder, [official(BROKEN)])
    assert sentence(path, skip_unparsed=True).startswith(
        f"`{path}` has no interaction with a turn that can be read: found 1 interactions;"
    )


def test_no_such_file_names_those_that_are_there(folder: Path) -> None:
    path = folder / "trian.json"
    assert sentence(path) == (
        f"no such file `{path}`: expected a JSON file, that folder has tables.json;"
        " correct the path"
    )


def test_a_file_cut_in_half_is_told_with_the_line(folder: Path) -> None:
    path = write(folder, [official(ALL, NAMES)] * 3)
    text = path.read_text()
    path.write_text(text[: text.index("Their", 400)])
    assert sentence(path) == (
        f"`{path}` is cut off at line 30, column 18 (character 514 of 515): unterminated string,"
        " found after 0 whole documents; expected JSON; get the whole file again"
    )


def test_a_file_cut_anywhere_gives_a_sentence(folder: Path) -> None:
    path = write(folder, editsql(("All?", "select animal.*")), editsql(("Ids?", "select *")))
    text = path.read_text()
    second = text.index("\n{") + 1
    for end in range(second + 1, len(text)):
        path.write_text(text[:end])
        found = sentence(path)
        assert found.startswith((f"`{path}` is cut off at line", f"`{path}` is broken at line"))
        assert "found after 1 whole documents" in found


def test_a_cut_tables_json_is_told(folder: Path) -> None:
    path = write(folder, [official(ALL)])
    tables = folder / "tables.json"
    tables.write_text(tables.read_text()[:-9])
    assert sentence(path).startswith(f"`{tables}` is cut off at line 1, column")


def test_bytes_that_are_no_text_are_told(folder: Path) -> None:
    path = folder / "train.json"
    path.write_bytes(b"[\xff\xfe]")
    assert sentence(path).startswith(f"`{path}` is no UTF-8 text: byte 1 is 0xff; expected JSON")


def test_an_unknown_database_is_told_with_the_closest(folder: Path) -> None:
    path = write(folder, [official(ALL), official(ALL, database="zoos")])
    assert sentence(path) == (
        f"database id `zoos` of interaction 1 of `{path}` is not in `{folder / 'tables.json'}`:"
        " expected one of its 1 ids (closest: zoo);"
        " correct the id or pass the tables.json that has it"
    )


def test_an_unknown_database_unlike_any_is_told_with_examples(folder: Path) -> None:
    path = write(folder, [official(ALL, database="harbour")])
    assert "expected one of its 1 ids (for example zoo)" in sentence(path)


@pytest.mark.parametrize(
    ("item", "start", "found"),
    [
        ({"text": "a"}, "interaction 0 of", "found the keys `text`"),
        (7, "interaction 0 of", "found int '7'"),
        ({"db_id": "zoo", "question": "a"}, "interaction 0 of", "keys `db_id`, `question`"),
        (
            {"database_id": "zoo", "interaction": [{"utterance": "a"}]},
            "turn 0 of interaction 0 of",
            "found the keys `utterance`",
        ),
    ],
)
def test_an_unknown_form_is_told(folder: Path, item: object, start: str, found: str) -> None:
    told = sentence(write(folder, [item]))
    assert told.startswith(start)
    assert " is in no known form: " in told
    assert found in told
    assert told.endswith("convert it to one of these")


@pytest.mark.parametrize(("content", "kind"), [("[]", "list"), ("", "file"), (" \n", "file")])
def test_no_interactions_are_told(folder: Path, content: str, kind: str) -> None:
    path = folder / "train.json"
    path.write_text(content)
    assert sentence(path).startswith(f"`{path}` has no interactions: found an empty {kind};")


@pytest.mark.parametrize("place", ["tables.json", "a/tables.json", "../official/tables.json"])
def test_tables_are_found_near_the_file(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "editsql"
    path = write(folder, [official(ALL)])
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text(json.dumps([SCHEMA]))
    assert set(read(path).databases) == {"zoo"}


def test_tables_that_are_nowhere_are_told(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    path = write(tmp_path / "alone" / "editsql", [official(ALL)])
    assert sentence(path).startswith(f"no `tables.json` for `{path}`: looked beside it")


def test_given_tables_win(folder: Path, tmp_path: Path) -> None:
    other = {**SCHEMA, "db_id": "park"}
    tables = write(tmp_path / "other", [other], name="schemas.json")
    path = write(folder, [official(ALL, database="park")])
    assert set(read(path, tables).databases) == {"park"}


@pytest.mark.parametrize(
    ("content", "start"),
    [
        ({"db_id": "zoo"}, "`{}` is not a tables.json: expected one JSON list of schemas"),
        ([{"db_id": "zoo"}], "entry 0 of `{}` is no schema (found KeyError: "),
        ([SCHEMA, 3], "entry 1 of `{}` is no schema (found a int)"),
        ([{**SCHEMA, "table_names_original": "a"}], "entry 0 of `{}` is no schema (found TypeErr"),
    ],
)
def test_tables_of_another_form_are_told(folder: Path, content: object, start: str) -> None:
    tables = write(folder, content, name="tables.json")
    assert sentence(write(folder, [official(ALL)])).startswith(start.format(tables))


def test_a_folder_is_read_by_its_split(folder: Path) -> None:
    write(folder, [official(ALL)], name="train.json")
    write(folder / "late", [official(NAMES)], name="dev.json")
    assert read(folder).interactions[0].turns == (ALL,)
    assert read(folder, split="dev").interactions[0].turns == (NAMES,)
    assert sentence(folder, split="test").startswith(f"folder `{folder}` has no `test.json`")


def test_the_embedded_corpus_has_steps_for_every_query() -> None:
    corpus = embedded()
    assert isinstance(corpus, Corpus)
    assert corpus.unreadable == ()
    assert corpus.unknown == 0
    assert all(turn.steps for one in corpus.interactions for turn in one.turns)


@needs_sparc
@pytest.mark.parametrize(
    ("split", "interactions", "turns"), [("train", 3024, 8987), ("dev", 422, 1203)]
)
def test_sparc_as_editsql_has_it(split: str, interactions: int, turns: int) -> None:
    corpus = read(SPARC, split=split)
    assert len(corpus.databases) == 166
    assert len(corpus.interactions) == interactions
    assert sum(len(one.turns) for one in corpus.interactions) == turns
    assert corpus.unknown == 0
    places = [38, 70, 71, 427, 2239, 2250, 2385, 2386, 2387, 2388] if split == "train" else []
    assert [one.interaction for one in corpus.unreadable] == places


@needs_sparc
def test_official_sparc_has_four_queries_without_steps() -> None:
    path = SPARC / "official" / "dev.json"
    assert f"`{path}` has 4 of 1203 queries that give no steps" in sentence(path)
    corpus = read(path, skip_unparsed=True)
    assert sum(len(one.turns) for one in corpus.interactions) == 1199
    places = [(one.interaction, one.turn) for one in corpus.unreadable]
    assert places == [(100, 1), (101, 0), (101, 1), (161, 1)]
