"""Which memory is alive at a step's fullest moment: by site, and the largest tensors."""

from __future__ import annotations

import bisect
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nan_watch.origin.operators import operator
from nan_watch.origin.sources import Place, here, module_names
from probes.nested import tensors_in
from probes.operator_mode import OperatorMode

LARGEST = 5  # tensors that are named


@dataclass(frozen=True, slots=True)
class Piece:
    """A storage that lives, and the operator that made it.

    what: `aten.mm`, or `parameters`, `gradients`, `optimizer state`, `batch`.
    phase: None for what was there before the step.
    """

    what: str
    site: str
    phase: str | None
    source: str | None
    size: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Peak:
    """The fullest moment: live bytes in all, by site and phase, and the largest pieces.

    failed: the operator that got no memory, where one did not.
    """

    size: int
    by_site: Mapping[tuple[str, str | None], int]
    largest: tuple[Piece, ...]
    failed: Piece | None = None


@dataclass(slots=True)
class _Live:
    pieces: dict[int, Piece] = field(default_factory=dict)
    references: dict[int, weakref.ref[Any]] = field(default_factory=dict)
    size: int = 0


class Tally(OperatorMode):
    """Run a step inside it; `peak` is then its fullest moment, or that at which memory ended.

    It changes nothing that is computed. given: what is there before, by what it is.
    """

    def __init__(self, model: nn.Module, given: Mapping[str, Sequence[Tensor]]) -> None:
        super().__init__()
        self.peak = Peak(0, {}, ())
        self._names = module_names(model)
        self._live = _Live()
        self._sequences: list[int] = []
        self._places: list[Place] = []
        for what, tensors in given.items():
            for tensor in tensors:
                self._count(tensor, what, Place(what, None), None)
        self._look()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The operator has run, and what it made is counted for as long as it lives."""
        name, place, phase = operator(func).name, *self._place()
        try:
            out = func(*args, **(kwargs or {}))
        except (RuntimeError, MemoryError):
            failed = Piece(name, place.site, phase, place.source, 0, (), "")
            self._look(failed)
            raise
        for tensor in tensors_in(out):
            self._count(tensor, name, place, phase)
        if self._live.size > self.peak.size and self.peak.failed is None:
            self._look()
        return out

    def _place(self) -> tuple[Place, str]:
        """Of the operator at work; in a backward pass, of the operator whose backward it is."""
        node = torch._C._current_autograd_node()
        if node is None:
            place = here(self._names)
            sequence = torch.autograd._get_sequence_nr() - 1
            if not self._sequences or sequence > self._sequences[-1]:
                self._sequences.append(sequence)
                self._places.append(place)
            return place, "backward" if place.recomputed else "forward"
        found = bisect.bisect_right(self._sequences, node._sequence_nr()) - 1
        return self._places[found] if found >= 0 else here(self._names), "backward"

    def _count(self, tensor: Tensor, what: str, place: Place, phase: str | None) -> None:
        if tensor.layout is not torch.strided or tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live.pieces:
            return
        made = self._live.pieces[key] = _piece(what, tensor, place, phase)
        self._live.size += made.size
        live = self._live  # not self: the callbacks must not keep the mode alive

        def gone(_: object) -> None:
            died = live.pieces.pop(key, None)
            live.references.pop(key, None)
            live.size -= died.size if died is not None else 0

        live.references[key] = weakref.ref(storage, gone)

    def _look(self, failed: Piece | None = None) -> None:
        """The moment is the fullest so far, or the one at which memory ended."""
        pieces = list(self._live.pieces.values())
        by_site: Counter[tuple[str, str | None]] = Counter()
        for piece in pieces:
            by_site[piece.site, piece.phase] += piece.size
        largest = sorted(pieces, key=lambda piece: -piece.size)[:LARGEST]
        self.peak = Peak(self._live.size, dict(by_site.most_common()), tuple(largest), failed)


def _piece(what: str, tensor: Tensor, place: Place, phase: str | None) -> Piece:
    size = tensor.untyped_storage().nbytes()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Piece(what, place.site, phase, place.source, size, tuple(tensor.shape), dtype)


def given(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Sequence[Tensor]
) -> dict[str, list[Tensor]]:
    """What is in memory before a step, by what it is."""
    parameters = list(model.parameters())
    state = [value for each in optimizer.state.values() for value in each.values()]
    return {
        "parameters": [*parameters, *model.buffers()],
        "gradients": [p.grad for p in parameters if p.grad is not None],
        "optimizer state": [value for value in state if isinstance(value, Tensor)],
        "batch": list(batch),
    }
