"""A frozen encoder's outputs, computed once and kept on disk: `runs/features/KEY`.

The key is made of the encoder's weights and of `VERSION`; an entry's name of the word pieces of
its inputs. `WHYNAN_FEATURES` names another folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.collate import Batch, encoder_inputs, filled, ones
from model.config import Config
from model.encoder import Encoder
from model.faults import Faults
from model.features import Features, Rows
from model.pack import Packed
from model.schema import Pool, at
from probes.batch import to_device

VERSION = 1
"""Of this code: to be raised where it gives other rows for the same word pieces."""

AT_ONCE = 6000  # word pieces that are encoded together, padding counted
CHUNK = 16  # batches that are written together


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a turn stands in the store, and how many rows its utterance and its units have."""

    name: str
    said: int
    units: int


class Cached:
    """What an encoder says of inputs: a row for each of an utterance's word pieces and each unit.

    A unit's row is the mean over its word pieces.
    """

    def __init__(self, encoder: Encoder, pad: int, folder: Path | None = None) -> None:
        self._encoder, self._pad = encoder, pad
        place = folder or Path(os.environ.get("WHYNAN_FEATURES", "runs/features"))
        self.store = Features(place / key(encoder), encoder.width)

    def entry(self, packed: Packed) -> Entry:
        """The entry of these inputs, computed where it is not there yet."""
        name = digest(packed)
        if name not in self.store:
            self.fill([packed])
        return Entry(name, len(packed.utterance), len(packed.units))

    def inputs(self, entries: Sequence[Sequence[Entry]]) -> Batch:
        """The features of turns, (n, t, m, feature), and where utterances and units stand."""
        sizes = [[each.said + each.units for each in some] for some in entries]
        shape = (len(entries), max(map(len, entries)), max(map(max, sizes)))
        features = np.zeros((*shape, self.store.width), np.float32)
        for i, some in enumerate(entries):
            for t, each in enumerate(some):
                features[i, t, : sizes[i][t]] = self.store[each.name]
        said = [[list(range(each.said)) for each in some] for some in entries]
        units = [
            [[[each.said + i] for i in range(each.units)] for each in some] for some in entries
        ]
        return {
            "features": torch.from_numpy(features),
            "utterance_pieces": filled(0, said),
            "utterance_mask": filled(False, [ones(some) for some in said]),
            "unit_pieces": filled(0, units),
            "unit_piece_mask": filled(False, [[ones(turn) for turn in some] for some in units]),
        }

    def fill(self, packed: Iterable[Packed], done: Callable[[int], None] = lambda _: None) -> int:
        """All of these are in the store; returns how many were missing.

        `done` hears after every batch how many of those that were missing are there.
        """
        wanted = {digest(each): each for each in packed}
        if all(name in self.store for name in wanted):
            return 0
        with self.store.writing():
            missing = {name: each for name, each in wanted.items() if name not in self.store}
            self._add(missing, done)
        return len(missing)

    def _add(self, missing: dict[str, Packed], done: Callable[[int], None]) -> None:
        ready: list[tuple[str, Rows]] = []
        count = 0
        for number, names in enumerate(alike(missing), 1):
            ready += zip(names, self._encoded([missing[name] for name in names]), strict=True)
            count += len(names)
            if number % CHUNK == 0:
                self.store.add(ready)
                ready = []
            done(count)
        self.store.add(ready)

    @torch.no_grad()
    def _encoded(self, packed: Sequence[Packed]) -> Iterator[Rows]:
        device = next(self._encoder.parameters()).device
        batch = to_device(encoder_inputs([[each] for each in packed], self._pad), device)
        hidden = self._encoder(batch["ids"], batch["token_mask"], batch["token_types"])
        said: Tensor = at(hidden, batch["utterance_pieces"][:, 0])  # (n, w, feature)
        pool = Pool(Config(), Faults())
        units = pool(hidden, batch["unit_pieces"], batch["unit_piece_mask"])[:, 0]
        for i, each in enumerate(packed):
            both = torch.cat([said[i, : len(each.utterance)], units[i, : len(each.units)]])
            yield both.cpu().numpy().astype(np.float16)


def key(encoder: Encoder) -> str:
    """The same for the same weights and version of the code: 16 hexadecimal digits."""
    made = hashlib.sha256(f"{VERSION} {type(encoder.bert).__name__}".encode())
    for name, tensor in encoder.bert.state_dict().items():
        made.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return made.hexdigest()[:16]


def digest(packed: Packed) -> str:
    """The same for the same inputs with the same spans: 32 hexadecimal digits."""
    content = [packed.inputs, packed.heads, packed.utterance, packed.units]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def alike(packed: dict[str, Packed]) -> Iterator[list[str]]:
    """Names of entries of like length, longest first, about `AT_ONCE` word pieces at a time."""
    names = sorted(packed, key=lambda name: -_size(packed[name]))
    while names:
        count = max(1, AT_ONCE // _size(packed[names[0]]))
        yield names[:count]
        names = names[count:]


def _size(packed: Packed) -> int:
    return len(packed.inputs) * max(map(len, packed.inputs))
