"""Where the command's interactions come from, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.read import Corpus, embedded, read
from probes.errors import RequestError


@dataclass(frozen=True)
class Source:
    """Where interactions come from, in JSON's types; without `data`, the specimen's corpus."""

    data: str | None = None
    tables: str | None = None
    split: str = "train"
    skip_unparsed: bool = False

    def read(self) -> Corpus:
        """The corpus. How large it is and what could not be read stands on standard output."""
        if self.data is None:
            found = embedded()
        else:
            tables = None if self.tables is None else Path(self.tables)
            place = Path(self.data)
            found = read(place, tables, split=self.split, skip_unparsed=self.skip_unparsed)
        print("\n".join(_words(self.data or "the embedded corpus", found)), flush=True)
        return found


def given(data: Path | None, tables: Path | None, split: str, skip_unparsed: bool) -> Source | None:
    """The source that the options name; None where they name none.

    Raises RequestError where tables are given without data.
    """
    if data is None and tables is not None:
        raise RequestError(
            f"`--tables {tables}` was given without `--data`: expected the data that it belongs "
            "to; give both"
        )
    if data is None:
        return None
    beside = None if tables is None else str(tables.resolve())
    return Source(str(data.resolve()), beside, split, skip_unparsed)


def _words(name: str, corpus: Corpus) -> list[str]:
    asked = counted(len({each.database for each in corpus.interactions}), "database")
    turns = counted(sum(len(each.turns) for each in corpus.interactions), "turn")
    words = [f"data: {name}: {counted(len(corpus.interactions), 'interaction')}, {turns}, {asked}"]
    if corpus.unreadable:
        words.append(f"left out: {len(corpus.unreadable)}, which are {_places(corpus)}")
    if corpus.unknown:
        words.append(f"neither keyword nor unit, and so _UNK: {counted(corpus.unknown, 'step')}")
    return words


def _places(corpus: Corpus) -> str:
    return ", ".join(
        f"interaction {each.interaction}" + ("" if each.turn is None else f" turn {each.turn}")
        for each in corpus.unreadable
    )


def counted(count: int, what: str) -> str:
    """The number with its noun: `1 turn`, `2 turns`."""
    return f"{count} {what}" + ("" if count == 1 else "s")
