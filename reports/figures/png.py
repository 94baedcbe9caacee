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
    lines = np.concatenate([np.zeros((height, 1), np.uint8), cells], axis=1)  # filter 0 a line
    png = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + _chunk(b"PLTE", np.ascontiguousarray(palette[:, :3]).tobytes())
        + _chunk(b"tRNS", np.ascontiguousarray(palette[:, 3]).tobytes())
        + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )
