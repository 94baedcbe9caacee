"""Writes the run folder as the run goes: the only thing that outlives a process."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import struct
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from probes import strict_json
from probes.chunks import NOT_SEEN, Floats, Stream, measured
from probes.errors import RequestError
from probes.finding import Judgement
from probes.source import source_lines

SCHEMA = 1
BUDGET = 256 * 2**20  # bytes of readings


def new_folder(out: Path | None = None) -> Path:
    """A fresh, empty run folder: `out` itself, or `runs/Nov22_15-59-28_host`.

    Raises RequestError where `out` exists already or cannot be made; nothing is overwritten.
    """
    for folder in [out] if out else _dated():
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RequestError(
                f"`{folder}` cannot be written ({error.strerror}): name a folder that you may "
                "write by `--out`, in code by `out`."
            ) from error
        return folder
    raise RequestError(
        f"`{folder}` exists already, and a run never overwrites another: name a folder that does "
        "not exist by `--out`, in code by `out`, or remove this one."
    )


def _dated() -> list[Path]:
    name = f"{datetime.now():%b%d_%H-%M-%S}_{socket.gethostname()}"
    return [Path("runs") / (name + suffix) for suffix in ("", *(f"-{i}" for i in range(2, 100)))]


def environment() -> dict[str, Any]:
    """Versions, and what else of the surroundings a number may hang on."""
    names = ("whynan", "torch", "numpy", "transformers")
    versions = {"python": platform.python_version()}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "versions": versions,
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


class Recorder:
    """Writes a run folder; what is written stays readable when the process is killed.

    settings: what the user asked for. limits: the limits in force, by rule. budget: bytes that
    the readings may take; older steps are folded into their maximum beyond it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int | None = None,
        device: str | None = None,
        settings: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        budget: int = BUDGET,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._given, self._whole = folder, folder.absolute()
        self.budget = budget
        self.facts: dict[str, Any] = {
            "schema": SCHEMA,
            "run": folder.name,
            "complete": False,
            "seed": seed,
            "device": device,
            **environment(),
            "settings": dict(settings or {}),
            "limits": dict(limits or {}),
        }
        self._columns: dict[str, dict[str, int]] = {}
        self._streams: dict[tuple[str, str], Stream] = {}
        self._size = 0
        self._ticks = 0
        self._newest: int | None = None  # the step that was written last
        (folder / "readings").mkdir()
        self._sites = (folder / "sites.jsonl").open("a", encoding="utf-8")
        self._done = (folder / "readings" / "steps.i64").open("ab", buffering=0)
        # a recorder that is dropped closes its files, and its run stays incomplete
        self._release = weakref.finalize(self, _close, self._streams, (self._sites, self._done))
        strict_json.write(folder / "run.json", self.facts)

    @property
    def folder(self) -> Path:
        """The run folder: as it was given, and whole where it is no longer found so."""
        return self._given if self._given.absolute() == self._whole else self._whole

    def column(self, kind: str, site: str) -> int:
        """The column of this site in the rows of this kind; a new one where it is new."""
        columns = self._columns.setdefault(kind, {})
        if site not in columns:
            columns[site] = len(columns)
            row = {"kind": kind, "site": site, "tick": self._ticks}
            self._sites.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._sites.flush()
            self._ticks += 1
        return columns[site]

    def row(self, kind: str) -> Floats:
        """A row for the kind's sites with every slot set to not seen."""
        return np.full(len(self._columns.get(kind, ())), NOT_SEEN, np.float32)

    def write(self, step: int, rows: Mapping[tuple[str, str], npt.ArrayLike]) -> None:
        """The step's rows, one for each kind and statistic, are on disk, all or none."""
        rows_a_chunk = self._rows_a_chunk()
        for (kind, stat), values in rows.items():
            stream = self._streams.get((kind, stat)) or self._stream(kind, stat)
            width = len(self._columns.get(kind, ()))
            self._size += stream.append(step, values, width, rows_a_chunk)
        if step != self._newest:
            self._done.write(struct.pack("<q", step))
            self._newest = step
        while self._size > self.budget and self._thin():
            pass

    def values(self, step: int, kind: str, stat: str, by_site: Mapping[str, float]) -> None:
        """One statistic of a few sites is written for this step; the other sites are not seen."""
        for site in by_site:
            self.column(kind, site)
        row = self.row(kind)
        for site, value in by_site.items():
            row[self.column(kind, site)] = measured([value])[0]
        self.write(step, {(kind, stat): row})

    def array(
        self,
        name: str,
        values: npt.ArrayLike,
        axes: Sequence[str],
        labels: Mapping[str, Sequence[str]] | None = None,
        **about: Any,
    ) -> None:
        """An array with named axes lies beside the readings, as `arrays/NAME.npy` and `.json`.

        labels: axis name to how its entries are called. about: whatever else is to be known.
        """
        array = np.asarray(values)
        if array.ndim != len(axes):
            raise ValueError(f"array `{name}` has {array.ndim} axes, but {len(axes)} are named")
        folder = self.folder / "arrays"
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        facts = {"axes": list(axes), "labels": dict(labels or {}), **about}
        strict_json.write(folder / f"{name}.json", facts)

    def graph(self, name: str, content: Mapping[str, Any]) -> None:
        """An autograd graph lies beside the readings, as `graphs/NAME.json`."""
        folder = self.folder / "graphs"
        folder.mkdir(exist_ok=True)
        strict_json.write(folder / f"{name}.json", content)

    def part(self, name: str, **facts: Any) -> Recorder:
        """A recorder of a part of this run, such as one suite, in `parts/NAME`."""
        budget = facts.pop("budget", self.budget)
        return Recorder(self.folder / "parts" / name, budget=budget, **facts)

    def findings(self, judgement: Judgement) -> None:
        """`findings.json` holds the judgement, `sources.json` the lines around its culprits."""
        strict_json.write(self.folder / "findings.json", judgement.as_json(self.folder.name))
        lines = {each.source: source_lines(each.source) for each in judgement.findings}
        known = {source: list(map(asdict, found)) for source, found in lines.items() if found}
        if known:
            strict_json.write(self.folder / "sources.json", known)

    def note(self, **settings: Any) -> None:
        """What became known during the run stands among its settings."""
        self.facts["settings"] |= settings
        strict_json.write(self.folder / "run.json", self.facts)

    def close(self, judgement: Judgement | None = None, *, complete: bool = True) -> None:
        """The files are closed, and the run says whether it is complete."""
        if judgement is not None:
            self.findings(judgement)
        self.release()
        self.facts["complete"] = complete
        strict_json.write(self.folder / "run.json", self.facts)

    def release(self) -> None:
        """The files are closed; unless it was closed before, the run stays incomplete."""
        self._release()

    @contextmanager
    def unless_refused(self) -> Iterator[None]:
        """Where the request turns out to be wrong inside, no run folder is left of it."""
        try:
            yield
        except RequestError:
            self.release()
            shutil.rmtree(self.folder)
            raise

    def _stream(self, kind: str, stat: str) -> Stream:
        """A new stream."""
        made = Stream(self._whole / "readings" / f"{kind}.{stat}")
        self._streams[kind, stat] = made
        return made

    def _rows_a_chunk(self) -> int:
        """256, or fewer where the budget is small for the sites; even, so that rows pair up."""
        columns = sum(map(len, self._columns.values()))
        return max(2, min(256, self.budget // (64 * 4 * (1 + columns)) // 2 * 2))

    def _thin(self) -> int:
        won = sum(stream.thin() for stream in self._streams.values())
        self._size -= won
        return won


def _close(streams: Mapping[tuple[str, str], Stream], files: Iterable[IO[Any]]) -> None:
    for stream in streams.values():
        stream.close()
    for file in files:
        file.close()
