"""Readings on disk: float32 rows of [step, site], one folder a kind and statistic.

A row is the step (int32) and then one float32 a site, written at once as the step ends; a row
torn by a kill is left out when read. Once the folder outgrows its budget, neighbouring rows are
folded into their maximum, oldest first, and the newest chunks keep every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_NOT_SEEN_BITS = np.uint32(0x7FC00B5E)  # a quiet NaN of our own: told apart from a measured NaN
NOT_SEEN = _NOT_SEEN_BITS.view(np.float32)
_MEASURED_NAN = np.uint32(0x7FC00000).view(np.float32)


def seen(values: Floats) -> npt.NDArray[np.bool_]:
    """True where something was measured, a NaN included."""
    return np.not_equal(values.view(np.uint32), _NOT_SEEN_BITS)


def measured(values: npt.ArrayLike) -> Floats:
    """The values as float32, every NaN the one that means a measured NaN."""
    with np.errstate(over="ignore"):
        out = np.array(values, dtype=np.float32)
    out[np.isnan(out)] = _MEASURED_NAN
    return out


@dataclass(frozen=True, slots=True)
class Chunk:
    """One file of rows: the step it starts at, how many steps a row stands for, its sites."""

    path: Path
    first: int
    folded: int
    width: int

    @classmethod
    def at(cls, path: Path) -> Chunk:
        """The chunk that a file name such as `000000512-2-40.f32` tells of."""
        first, folded, width = path.stem.split("-")
        return cls(path, int(first), int(folded), int(width))

    @classmethod
    def named(cls, folder: Path, first: int, folded: int, width: int) -> Chunk:
        """The chunk of these figures, whose file need not exist yet."""
        return cls(folder / f"{first:09d}-{folded}-{width}.f32", first, folded, width)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row: its step and its sites."""
        return 4 * (1 + self.width)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size

    @property
    def last(self) -> int:
        """The last step that a whole row of the file speaks of; before its first where none."""
        rows = self.size // self.row_bytes
        if rows == 0:
            return self.first - 1
        with self.path.open("rb") as file:
            file.seek((rows - 1) * self.row_bytes)
            return int(np.frombuffer(file.read(4), np.int32)[0]) + self.folded - 1

    def read(self) -> Floats:
        """Whole rows: (row, 1 + site), the step's int32 in the first column's bits."""
        raw = self.path.read_bytes()
        whole = len(raw) // self.row_bytes * self.row_bytes
        return np.frombuffer(raw[:whole], np.float32).reshape(-1, 1 + self.width)


def row_of(step: int, values: npt.ArrayLike, width: int) -> Floats:
    """One row as it lies on disk: the step's bits, then `width` numbers; what is left is not seen.

    Every NaN is the one that means a measured NaN, but for those that mean not seen.
    """
    row = np.empty(1 + width, np.float32)
    row.view(np.int32)[0] = step
    given = np.asarray(values, np.float32)
    row[1 : 1 + len(given)] = given
    row[1 + len(given) :] = NOT_SEEN
    body = row[1:]
    np.copyto(body, _MEASURED_NAN, where=np.isnan(body) & seen(body))
    return row


def fold(rows: Floats) -> Floats:
    """Neighbouring rows as one: the first one's step, the largest of what was seen; NaN is largest.

    rows: (row, 1 + site), even in number.
    """
    even, odd = rows[0::2], rows[1::2]
    left, right = even[:, 1:], odd[:, 1:]
    both = measured(np.maximum(left, right))
    largest = np.where(~seen(left), right, np.where(~seen(right), left, both))
    return np.concatenate([even[:, :1], largest], axis=1)


def stored(folder: Path) -> list[Chunk]:
    """The chunks of a stream, oldest first, without those that a folded one already holds."""
    kept: list[Chunk] = []
    found = (Chunk.at(path) for path in folder.glob("*.f32"))
    for chunk in sorted(found, key=lambda each: (each.first, -each.folded, each.width)):
        if not (kept and chunk.folded < kept[-1].folded and chunk.last <= kept[-1].last):
            kept.append(chunk)
    return kept


class Stream:
    """Writes the rows of one kind and statistic."""

    KEPT = 4  # newest chunks that are never folded

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.chunks: list[Chunk] = []
        self.sizes: list[int] = []
        self._rows_left = 0

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(self.sizes)

    def append(self, step: int, values: npt.ArrayLike, width: int, rows_a_chunk: int) -> int:
        """The row of `width` numbers is in the file; returns how many bytes it took."""
        if self._rows_left == 0 or self.chunks[-1].width != width:
            self._open(step, width, rows_a_chunk)
        row = row_of(step, values, width)
        self._file.write(row.data)
        self._rows_left -= 1
        self.sizes[-1] += row.nbytes
        return row.nbytes

    def _open(self, step: int, width: int, rows: int) -> None:
        self.close()
        self.chunks.append(Chunk.named(self.folder, step, 1, width))
        self.sizes.append(0)
        self._file = self.chunks[-1].path.open("ab", buffering=0)
        self._rows_left = rows

    def close(self) -> None:
        """The file of the newest chunk is closed."""
        if self.chunks and not self._file.closed:
            self._file.close()

    def thin(self) -> int:
        """The finest of the older chunks are folded, two into one; returns the bytes won."""
        for start, count in self._foldable():
            old = self.chunks[start : start + count]
            before = sum(self.sizes[start : start + count])
            rows = fold(np.concatenate([chunk.read() for chunk in old]))
            new = Chunk.named(self.folder, old[0].first, old[0].folded * 2, old[0].width)
            fresh = new.path.with_suffix(".new")
            fresh.write_bytes(rows.tobytes())
            fresh.replace(new.path)
            for chunk in old:
                chunk.path.unlink()
            self.chunks[start : start + count] = [new]
            self.sizes[start : start + count] = [rows.nbytes]
            return before - rows.nbytes
        return 0

    def _foldable(self) -> Iterator[tuple[int, int]]:
        """Start and number of the chunks to fold next: pairs, least folded first, then oldest.

        A chunk alone is folded only where no two neighbours are alike; its rows are even in
        number, so that every row of a chunk stands for as many steps.
        """
        older = self.chunks[: -self.KEPT]
        order = sorted(range(len(older)), key=lambda index: older[index].folded)
        for index in order:
            this, following = older[index], older[index + 1 : index + 2]
            if following and _alike(this, following[0]) and self._even(index, 2):
                yield index, 2
        yield from ((index, 1) for index in order if self._even(index, 1))

    def _even(self, start: int, count: int) -> bool:
        rows = sum(self.sizes[start : start + count]) // self.chunks[start].row_bytes
        return rows >= 2 and rows % 2 == 0


def _alike(one: Chunk, other: Chunk) -> bool:
    return (one.folded, one.width) == (other.folded, other.width)
