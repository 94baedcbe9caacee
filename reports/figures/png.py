"""A picture of one pixel a cell, with a palette, as a data URI."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt

Cells = npt.NDArray[np.uint8]
Palette = npt.NDArray[np.uint8]


def data_uri(cells: Cells, palette: Palette) -> str:
    """A PNG of the cells, to be scaled with `image-rendering: pixelated`.

    cells: (row, column) indices into the palette. palette: (colour, 4) red, green, blue, alpha.
    """
    height, width = cells.shape
    png = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + _chunk(b"PLTE", np.ascontiguousarray(palette[:, :3]).tobytes())
        + _chunk(b"tRNS", np.ascontiguousarray(palette[:, 3]).tobytes())
        + _chunk(b"IDAT", _body(cells))
        + _chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def packed(cells: Cells) -> int:
    """How many characters the cells take as a data URI, about."""
    return 1200 + 4 * len(_body(cells)) // 3


def _body(cells: Cells) -> bytes:
    filters = np.zeros((len(cells), 1), np.uint8)  # 0, none, a line
    return zlib.compress(np.concatenate([filters, cells], axis=1).tobytes(), 9)


def _chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )
