"""Rows of numbers on disk in half precision, by the digest of what they were made from.

A store is a folder. `rows.f16` holds the rows, one entry's after another's; `index.jsonl` has a
line for each chunk of entries that was written whole, with its checksum. What a writer that was
interrupted has left behind the last such line is never read, and the next writer cuts it off.
"""

from __future__ import annotations

import fcntl
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float16]
"""(row, feature)."""


@dataclass(frozen=True, slots=True)
class Whole:
    """What of a store may be trusted: entries as (first row, rows), and how far both files go."""

    entries: dict[str, tuple[int, int]]
    index_bytes: int
    row_bytes: int


class Features:
    """A store of rows; made where it is not there yet.

    distrusted: how many bytes this object found that no whole chunk accounts for, and cut off.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width, self.distrusted = folder, width, 0
        folder.mkdir(parents=True, exist_ok=True)
        self._index, self._rows = folder / "index.jsonl", folder / "rows.f16"
        for path in (self._index, self._rows):
            path.touch()
        self._load()

    def __contains__(self, digest: str) -> bool:
        return digest in self._whole.entries

    def __getitem__(self, digest: str) -> Rows:
        """The rows of an entry, read from the disk when they are looked at: (row, feature)."""
        first, count = self._whole.entries[digest]
        return self._mapped[first : first + count]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within the block this process alone adds to the store, after all that others added."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._load()
            ends = (self._rows, self._whole.row_bytes), (self._index, self._whole.index_bytes)
            for path, end in ends:
                self.distrusted += path.stat().st_size - end
                with path.open("r+b") as file:
                    file.truncate(end)
            yield

    def add(self, entries: Sequence[tuple[str, Rows]]) -> None:
        """These are in the store, all of them or, where the process is killed, none."""
        data = b"".join(np.ascontiguousarray(rows, np.float16).tobytes() for _, rows in entries)
        counts = [[digest, len(rows)] for digest, rows in entries]
        line = json.dumps({"crc": zlib.crc32(data), "entries": counts}) + "\n"
        for path, more in ((self._rows, data), (self._index, line.encode())):
            with path.open("ab") as file:
                file.write(more)
        whole = self._whole
        found = dict(whole.entries)
        place = whole.row_bytes // self._row
        for digest, rows in entries:
            found[digest] = (place, len(rows))
            place += len(rows)
        self._trust(Whole(found, whole.index_bytes + len(line), place * self._row))

    @property
    def _row(self) -> int:
        return 2 * self.width  # bytes

    def _load(self) -> None:
        entries: dict[str, tuple[int, int]] = {}
        place = index_bytes = 0
        with self._rows.open("rb") as rows, self._index.open("rb") as index:
            for line in index:
                counts = _chunk(line, rows.read, self._row)
                if counts is None:
                    break
                for digest, count in counts:
                    entries[digest] = (place, count)
                    place += count
                index_bytes += len(line)
        self._trust(Whole(entries, index_bytes, place * self._row))

    def _trust(self, whole: Whole) -> None:
        self._whole = whole
        shape = (whole.row_bytes // self._row, self.width)
        self._mapped: Rows = (
            np.memmap(self._rows, np.float16, "r", shape=shape)
            if whole.row_bytes
            else np.zeros(shape, np.float16)
        )


def _chunk(line: bytes, read: Callable[[int], bytes], row: int) -> list[tuple[str, int]] | None:
    """The entries of a chunk and how many rows each has; None where it is not whole."""
    try:
        chunk = json.loads(line) if line.endswith(b"\n") else {}
        counts = [(str(digest), int(count)) for digest, count in chunk["entries"]]
    except (ValueError, KeyError, TypeError):
        return None
    size = row * sum(count for _, count in counts)
    data = read(size)
    return counts if len(data) == size and zlib.crc32(data) == chunk["crc"] else None
