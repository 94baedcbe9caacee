"""Interactions and their databases, read from the forms that text-to-SQL data comes in.

    corpus = read(Path("sparc/editsql/train.json"))    # tables.json is found near it
    corpus = read(Path("sparc"), split="dev")          # the same from a folder

The form is told by the content: SParC and CoSQL (a JSON list of interactions with `query`),
Spider (a list of single questions), EditSQL (interactions one after another, with linear `sql`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from model.database import Database as Database
from model.forms import Asked, Entry, entries
from model.linearise import UnparsedError, linearise
from model.linearise import split as split_line
from model.tables import find_tables, read_tables, unknown_database
from probes.errors import RequestError


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance and its SQL; `steps` are keywords and units, without `_EOS`."""

    utterance: str
    query: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interaction:
    """Turns that belong together, at least one; `index` is the place in the file."""

    database: str
    turns: tuple[Turn, ...]
    index: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A turn whose SQL gives no steps, or (`turn` is None) an interaction without turns.

    Where every turn of an interaction gives none, its turns stand here, and it nowhere else.
    """

    interaction: int
    turn: int | None
    query: str
    reason: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a file holds: every database of its tables.json by id, its interactions, the rest."""

    databases: Mapping[str, Database]
    interactions: tuple[Interaction, ...]
    unreadable: tuple[Unreadable, ...]

    @property
    def unknown(self) -> int:
        """How many steps were neither keyword nor unit and became `_UNK`."""
        turns = (turn for interaction in self.interactions for turn in interaction.turns)
        return sum(turn.steps.count("_UNK") for turn in turns)


def read(
    path: Path, tables: Path | None = None, *, split: str = "train", skip_unparsed: bool = False
) -> Corpus:
    """The corpus in a file, or in the file of a folder that is called after the split.

    `tables` is the tables.json, looked for near the file where not given. Raises `RequestError`
    where something is missing, broken or unknown, and where SQL does not parse, unless
    `skip_unparsed`: then such turns are left out and stand in `unreadable`. Interactions
    without turns always do.
    """
    file = _file(Path(path), split)
    asked = entries(file)
    tables = find_tables(file) if tables is None else Path(tables)
    databases = read_tables(tables)
    for entry in asked:
        if entry.database not in databases:
            asker = f"interaction {entry.index} of `{file}`"
            raise unknown_database(entry.database, databases, asker, tables)
    corpus = _corpus(asked, databases)
    unparsed = [one for one in corpus.unreadable if one.turn is not None]
    if unparsed and not skip_unparsed:
        raise _unparsed(file, unparsed, sum(len(entry.turns) for entry in asked))
    if not corpus.interactions:
        raise RequestError(
            f"`{file}` has no interaction with a turn that can be read: found {len(asked)}"
            " interactions; expected at least one with an utterance and SQL; give such a file"
        )
    return corpus


@cache
def embedded(split: str = "train") -> Corpus:
    """The corpus that comes with the specimen."""
    folder = Path(__file__).parent / "corpus"
    return read(folder / f"{split}.json", folder / "tables.json")


def _file(path: Path, split: str) -> Path:
    if not path.is_dir():
        return path
    found = [path / f"{split}.json", *sorted(path.glob(f"*/{split}.json"))]
    for file in found:
        if file.is_file():
            return file
    raise RequestError(
        f"folder `{path}` has no `{split}.json`, nor has a folder in it: expected one;"
        " give the file itself"
    )


def _corpus(asked: list[Entry], databases: Mapping[str, Database]) -> Corpus:
    interactions, unreadable = [], []
    for entry in asked:
        if not entry.turns:
            unreadable.append(Unreadable(entry.index, None, "", "the interaction has no turn"))
        turns = []
        for number, turn in enumerate(entry.turns):
            try:
                turns.append(_turn(turn, databases[entry.database]))
            except UnparsedError as error:
                unreadable.append(Unreadable(entry.index, number, turn.sql, str(error)))
        if turns:
            interactions.append(Interaction(entry.database, tuple(turns), entry.index))
    return Corpus(databases, tuple(interactions), tuple(unreadable))


def _turn(asked: Asked, database: Database) -> Turn:
    steps = split_line(asked.sql, database) if asked.linear else linearise(asked.sql, database)
    return Turn(asked.utterance, asked.sql, steps)


def _unparsed(file: Path, unparsed: list[Unreadable], turns: int) -> RequestError:
    shown = "; ".join(
        f"interaction {one.interaction}, turn {one.turn}: `{one.query}` ({one.reason})"
        for one in unparsed[:3]
    )
    more = f"; and {len(unparsed) - 3} more" if len(unparsed) > 3 else ""
    return RequestError(
        f"`{file}` has {len(unparsed)} of {turns} queries that give no steps: {shown}{more};"
        " expected one SELECT over its database; correct them or ask to skip them"
    )
