"""Interactions and their databases, read from the forms that text-to-SQL data comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from model.database import Database as Database


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance and its SQL; `steps` are keywords and units, without `_EOS`."""

    utterance: str
    query: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interaction:
    """Turns that belong together, over one database; `index` is the place in the file."""

    database: str
    turns: tuple[Turn, ...]
    index: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A turn whose SQL gives no steps, or (`turn` is None) an interaction without turns."""

    interaction: int
    turn: int | None
    query: str
    reason: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a file holds: its databases by id, its interactions, and what could not be read."""

    databases: Mapping[str, Database]
    interactions: tuple[Interaction, ...]
    unreadable: tuple[Unreadable, ...]
