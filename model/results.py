"""`results.csv`: a row for each finished run on SParC."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from model.config import Config
from model.evaluate import Scores, share
from probes.subject import Ratio

RESULTS = Path(__file__).with_name("results.csv")


@dataclass(frozen=True, slots=True)
class Row:
    """One run, measured on dev; accuracies and floors are in percent.

    settings: what differs from `model.sparc.SPARC` besides the seed. minutes: of processor time,
    training and what it measures, without the encoder's cache. own: queries that are right after
    the model's own earlier queries.
    """

    seed: int
    settings: str
    steps: int
    minutes: float
    queries: int
    token: float
    string: float
    own: float
    key: float
    keys: int
    db: float
    dbs: int
    floor_token: float
    floor_string: float
    floor_key: float
    floor_db: float

    @classmethod
    def of(
        cls,
        config: Config,
        usual: Config,
        about: Mapping[str, Any],
        scores: Scores,
        own: Ratio,
        floors: Scores,
    ) -> Row:
        """The row of these accuracies."""
        return cls(
            seed=config.seed,
            settings=changes(usual, config),
            steps=config.steps,
            minutes=round(about["seconds"] / 60, 1),
            queries=int(scores["token"].count),
            **{name: _percent(scores[name]) for name in ("token", "string", "key", "db")},
            own=_percent(own),
            keys=int(scores["key"].count),
            dbs=int(scores["db"].count),
            **{f"floor_{name}": _percent(ratio) for name, ratio in floors.items()},
        )

    def words(self) -> str:
        """The columns that a reader looks for first."""
        return (
            f"seed {self.seed}, token {self.token}, string {self.string} (floors "
            f"{self.floor_token}, {self.floor_string}), after its own queries {self.own}"
        )


def changes(usual: Config, config: Config) -> str:
    """The fields, but for seed and steps, whose values differ: `copying=False used=False`."""
    before = asdict(usual)
    return " ".join(
        f"{name}={value}"
        for name, value in asdict(config).items()
        if value != before[name] and name not in ("seed", "steps")
    )


def add(row: Row, path: Path = RESULTS) -> None:
    """The table has the row, in place of one of the same seed, settings and steps."""
    names = [each.name for each in fields(Row)]
    kept: list[list[str]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            kept = list(csv.reader(file))[1:]
    new = [str(value) for value in astuple(row)]
    rows = [each for each in kept if each[:3] != new[:3]] + [new]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([names, *sorted(rows, key=_place)])


def _place(row: list[str]) -> tuple[str, int, int]:
    return row[1], int(row[2]), int(row[0])


def _percent(ratio: Ratio) -> float:
    return round(100 * share(ratio), 2)
