"""One figure a file: each takes plain data and returns a `Figure`."""

from __future__ import annotations
