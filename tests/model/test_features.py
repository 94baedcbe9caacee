from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from model.features import Features, Rows


def rows(count: int, start: float = 0.0) -> Rows:
    return (start + np.arange(count * 3, dtype=np.float16)).reshape(count, 3)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A store of two chunks, of two entries and of one."""
    store = Features(tmp_path, 3)
    with store.writing():
        store.add([("a", rows(2)), ("b", rows(1, 50.0))])
        store.add([("c", rows(4, 100.0))])
    return tmp_path


def test_rows_come_back_in_half_precision(written: Path) -> None:
    store = Features(written, 3)
    for name, want in (("a", rows(2)), ("b", rows(1, 50.0)), ("c", rows(4, 100.0))):
        assert name in store
        assert store[name].dtype == np.float16
        np.testing.assert_array_equal(store[name], want)
    assert isinstance(store["a"], np.memmap)
    assert "d" not in store


def test_an_entry_without_rows(tmp_path: Path) -> None:
    store = Features(tmp_path, 3)
    with store.writing():
        store.add([("a", rows(0))])
    assert Features(tmp_path, 3)["a"].shape == (0, 3)


def cut_rows(folder: Path) -> None:
    """The rows of the last chunk were not all written."""
    data = (folder / "rows.f16").read_bytes()
    (folder / "rows.f16").write_bytes(data[:-2])


def cut_index(folder: Path) -> None:
    """The rows were, but not the line that says so."""
    data = (folder / "index.jsonl").read_bytes()
    (folder / "index.jsonl").write_bytes(data[:-1])


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "rows.f16").read_bytes())
    data[-1] ^= 1
    (folder / "rows.f16").write_bytes(data)


def write_zeros(folder: Path) -> None:
    """As a file system may have it after a power cut."""
    data = (folder / "rows.f16").read_bytes()
    (folder / "rows.f16").write_bytes(data[:-24] + bytes(24))


@pytest.mark.parametrize("harm", [cut_rows, cut_index, flip_a_bit, write_zeros])
def test_what_was_not_written_whole_is_never_read_and_is_written_again(
    written: Path, harm: object
) -> None:
    whole = [(written / name).read_bytes() for name in ("rows.f16", "index.jsonl")]
    assert callable(harm)
    harm(written)
    store = Features(written, 3)
    assert "c" not in store
    np.testing.assert_array_equal(store["b"], rows(1, 50.0))
    with store.writing():
        store.add([("c", rows(4, 100.0))])
    assert store.distrusted > 0
    assert [(written / name).read_bytes() for name in ("rows.f16", "index.jsonl")] == whole


def test_two_writers_take_turns(tmp_path: Path) -> None:
    both = [Features(tmp_path, 3) for _ in range(2)]

    def write(number: int) -> None:
        for i in range(5):
            with both[number].writing():
                both[number].add([(f"{number} {i}", rows(2, 10.0 * i + number))])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found = Features(tmp_path, 3)
    for number in range(2):
        for i in range(5):
            np.testing.assert_array_equal(found[f"{number} {i}"], rows(2, 10.0 * i + number))
