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
    Colours that no cell has are left out, and a cell takes no more bits than the others need.
    """
    height, width = cells.shape
    colours, own = _used(cells)
    bits = _bits(len(colours))
    alpha = palette[colours, 3].tobytes().rstrip(b"\xff")  # those left out are opaque
    png = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 3, 0, 0, 0))
        + _chunk(b"PLTE", palette[colours, :3].tobytes())
        + (_chunk(b"tRNS", alpha) if alpha else b"")
        + _chunk(b"IDAT", _body(own, bits))
        + _chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def packed(cells: Cells) -> int:
    """How many characters the cells take as a data URI, about."""
    colours, own = _used(cells)
    return 110 + 4 * (4 * len(colours) + len(_body(own, _bits(len(colours))))) // 3


def _used(cells: Cells) -> tuple[npt.NDArray[np.uint8], Cells]:
    """The colours that cells have, in order, and the cells as indices into them."""
    colours, own = np.unique(cells, return_inverse=True)
    return colours, own.reshape(cells.shape).astype(np.uint8)


def _bits(colours: int) -> int:
    return next(bits for bits in (1, 2, 4, 8) if colours <= 1 << bits)


def _body(cells: Cells, bits: int) -> bytes:
    """The lines, each after a 0 (no filter), cells side by side in whole bytes."""
    each = 8 // bits
    wide = -(-cells.shape[1] // each)
    padded = np.zeros((len(cells), wide * each), np.uint8)
    padded[:, : cells.shape[1]] = cells
    lines = np.zeros((len(cells), 1 + wide), np.uint8)
    for place in range(each):
        lines[:, 1:] |= padded[:, place::each] << (8 - bits * (place + 1))
    return zlib.compress(lines.tobytes(), 9)


def _chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )
