"""Reads a run folder, complete or not, as DataFrames and matrices."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from probes.chunks import NOT_SEEN, Floats, seen, stored
from probes.errors import RequestError
from probes.finding import Judgement
from probes.record import SCHEMA
from probes.source import SourceLine

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Matrix:
    """One kind and statistic of a run.

    steps: (step,) the step of each row, the first of those that it stands for.
    folded: (step,) how many steps the row stands for; 1 where nothing was folded.
    sites: names of the columns.
    values: (step, site) float32, NaN where not finite by that name and where not seen.
    seen: (step, site) whether anything was measured.
    """

    steps: npt.NDArray[np.int64]
    folded: npt.NDArray[np.int64]
    sites: tuple[str, ...]
    values: Floats
    seen: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class NamedArray:
    """An array with the names of its axes and of their entries."""

    values: npt.NDArray[Any]
    axes: tuple[str, ...]
    labels: Mapping[str, Sequence[str]]
    about: Mapping[str, Any]


class NewerRecordError(RequestError):
    """The record was written by a version of whynan that is newer than this one."""


class Run:
    """Reads a run folder, complete or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = _facts(folder)
        self.complete: bool = bool(self.facts.get("complete"))

    def _repr_html_(self) -> str:
        """What was found in the run, and where it lies, in a notebook."""
        from html import escape

        try:
            told = self.judgement._repr_html_()
        except RequestError as error:
            told = f"<p>{escape(str(error))}</p>"
        return f"{told}<p>run: <code>{escape(str(self.folder))}</code></p>"

    @property
    def sites(self) -> list[dict[str, Any]]:
        """The table of sites: kind, site and tick (the order in which they were first seen)."""
        return [dict(row) for row in self._sites]

    @property
    def _sites(self) -> tuple[dict[str, Any], ...]:
        path = self.folder / "sites.jsonl"
        if not path.is_file():
            return ()
        now = path.stat()
        return _table_of_sites(path, now.st_size, now.st_mtime_ns)

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The steps that were written whole, in order."""
        path = self.folder / "readings" / "steps.i64"
        raw = path.read_bytes() if path.is_file() else b""
        return np.unique(np.frombuffer(raw[: len(raw) // 8 * 8], np.int64))

    @property
    def has_readings(self) -> bool:
        """Whether the file of steps is there, which every record has from its first moment on."""
        return (self.folder / "readings" / "steps.i64").is_file()

    @property
    def streams(self) -> list[tuple[str, str]]:
        """Kind and statistic of every stream there is."""
        found = sorted((self.folder / "readings").glob("*.*/"))
        pairs = (path.name.split(".", 1) for path in found if path.is_dir())
        return [(kind, stat) for kind, stat in pairs]

    def matrix(self, kind: str, stat: str) -> Matrix:
        """The stream as one matrix, up to the last whole step; empty where there is none.

        Raises RequestError where the table of sites does not name all that was read.
        """
        sites = tuple(row["site"] for row in self._sites if row["kind"] == kind)
        whole = self.steps
        last = whole[-1] if len(whole) else -1
        rows, folded = [np.empty((0, 1 + len(sites)), np.float32)], []
        for chunk in stored(self.folder / "readings" / f"{kind}.{stat}"):
            read = chunk.read()
            read = read[read[:, 0].view(np.int32) <= last]
            if read.shape[1] > 1 + len(sites):
                raise RequestError(
                    f"`{self.folder / 'sites.jsonl'}` names {len(sites)} sites of `{kind}`, but "
                    f"`{chunk.path.name}` holds {read.shape[1] - 1}: the readings cannot be named."
                )
            wide = np.full((len(read), 1 + len(sites)), NOT_SEEN, np.float32)
            wide[:, : read.shape[1]] = read
            rows.append(wide)
            folded += [chunk.folded] * len(read)
        table = np.concatenate(rows)
        steps = table[:, 0].copy().view(np.int32).astype(np.int64)
        values = np.ascontiguousarray(table[:, 1:])
        return Matrix(steps, np.array(folded, np.int64), sites, values, seen(values))

    def readings(self, kind: str | None = None, stat: str | None = None) -> pd.DataFrame:
        """One row a number that was measured: step, tick, site, kind, stat, value."""
        import pandas as pd

        ticks = {(row["kind"], row["site"]): row["tick"] for row in self._sites}
        frames = []
        for each_kind, each_stat in self.streams:
            if kind not in (None, each_kind) or stat not in (None, each_stat):
                continue
            matrix = self.matrix(each_kind, each_stat)
            row, column = np.nonzero(matrix.seen)
            tick = np.array([ticks[each_kind, site] for site in matrix.sites], np.int64)
            frame = pd.DataFrame({"step": matrix.steps[row], "tick": tick[column]})
            frame["site"] = np.array(matrix.sites, dtype=object)[column]
            frame["kind"], frame["stat"] = each_kind, each_stat
            frame["value"] = matrix.values[row, column]
            frames.append(frame)
        if not frames:
            return pd.DataFrame(columns=["step", "tick", "site", "kind", "stat", "value"])
        return pd.concat(frames).sort_values(["step", "tick"], kind="stable", ignore_index=True)

    @property
    def judgement(self) -> Judgement:
        """What `findings.json` holds; nothing where the run did not come that far.

        Raises RequestError where it cannot be read.
        """
        path = self.folder / "findings.json"
        if not path.is_file():
            return Judgement()
        found = _object(path)
        try:
            return Judgement.from_json(found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f"`{path}` holds no findings as whynan writes them ({type(error).__name__}: "
                f"{error}): render the run again, or make it again."
            ) from error

    @property
    def sources(self) -> dict[str, tuple[SourceLine, ...]]:
        """The user's lines around what findings name, as they were then, by `file.py:line`."""
        path = self.folder / "sources.json"
        if not path.is_file():
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            source: tuple(SourceLine(**line) for line in lines) for source, lines in found.items()
        }

    @property
    def arrays(self) -> list[str]:
        """Names of the arrays beside the readings, also of those that lost one of their files."""
        found = (self.folder / "arrays").glob("*")
        return sorted({path.stem for path in found if path.suffix in (".json", ".npy")})

    def array(self, name: str) -> NamedArray:
        """The array of this name with its axes and labels."""
        folder = self.folder / "arrays"
        about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        values = np.load(folder / f"{name}.npy", allow_pickle=False)
        return NamedArray(values, tuple(about.pop("axes")), about.pop("labels"), about)

    @property
    def graphs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What the record holds of autograd graphs, by name."""
        for path in sorted((self.folder / "graphs").glob("*.json")):
            yield path.stem, json.loads(path.read_text(encoding="utf-8"))

    @property
    def parts(self) -> Iterator[tuple[str, Run]]:
        """The parts of the run, by name, in order of their names."""
        for path in sorted((self.folder / "parts").glob("*/run.json")):
            yield path.parent.name, Run(path.parent)


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    if not path.is_file():
        raise RequestError(
            f"`{folder}` is not a run folder: it holds no `run.json`; name the folder that a run "
            "printed as `run: PATH`."
        )
    return _object(path)


def _object(path: Path) -> dict[str, Any]:
    """What a JSON file of a record holds, of a schema that is known."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"`{path}` is not JSON ({error}): the run cannot be read.") from error
    if not isinstance(found, dict):
        raise RequestError(
            f"`{path}` holds a JSON {type(found).__name__} where an object was expected: the run "
            "cannot be read."
        )
    schema = found.get("schema", 0)
    if not isinstance(schema, int):
        raise RequestError(
            f"`{path}` has schema {schema!r}, which is no number: the run cannot be read."
        )
    if schema > SCHEMA:
        raise NewerRecordError(
            f"`{path}` has schema {schema}, but this version of whynan reads up to "
            f"{SCHEMA}: upgrade whynan to read the run."
        )
    return found


@lru_cache(maxsize=64)
def _table_of_sites(path: Path, size: int, written: int) -> tuple[dict[str, Any], ...]:
    """The rows of a file of that size, last written then: it is read again once it has grown."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(row for row in map(_json_or_none, lines) if row is not None)


def _json_or_none(line: str) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:  # the last line, torn by a kill
        return None
    return row
