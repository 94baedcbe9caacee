"""numpy's global generator: its state, which numpy takes 0.1 ms to give, asked for once a move."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

BYTES = 625 * 4  # of the Mersenne Twister: 624 words and a position


class NumpyState:
    """Keeps the newest state, and gives it again while the generator stands still."""

    def __init__(self) -> None:
        self._state: Any = None
        self._raw = b""
        self._address: tuple[Any, int] = None, 0

    def take(self) -> Any:
        """What `np.random.get_state()` gives."""
        raw = self._words()
        if raw is None or raw != self._raw:
            self._state = np.random.get_state()
            # a normal number kept for the next call is no part of the words, and may be used up
            self._raw = raw if raw is not None and not self._state[3] else b""
        return self._state

    def _words(self) -> bytes | None:
        """The generator's words as they lie in memory; None where it is of another kind."""
        generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
        if generator is not self._address[0]:
            known = isinstance(generator, np.random.MT19937)
            self._address = generator, generator.ctypes.state_address if known else 0
        return ctypes.string_at(self._address[1], BYTES) if self._address[1] else None


numpy_state = NumpyState()
