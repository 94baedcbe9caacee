"""Whether the parameters are the same numbers on all ranks: some are compared at each step."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nan_watch.flags import Doubles
from probes.modules import STATISTICS
from probes.wrapped import is_sharded, reducers

PIECE = 2**18  # numbers of a parameter that are compared at once
A_STEP = 2**20  # numbers that are compared in a step, but all of them in the first
NEAR = 1e-3  # relative difference of two norms that rounding may make
ABSENT = -1.0  # no norm is
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one tensor; `place` is its place among the names."""

    place: int
    first: int
    last: int


@dataclass
class Apart:
    """A tensor that was seen to differ between ranks.

    first: the step before which it did. since: the newest step before which it was still seen to
    be alike, None where it never was. grads: `same` or `differ` between the ranks at that step or
    before, `none` where there is none. met: whether it was alike again later.
    """

    first: int
    since: int | None
    grads: str
    met: bool = False


class Replicas:
    """Compares parameters, and the statistics of batch norms, by sums of their bits.

    The sums are exact whatever their order. All ranks hold the same names and shapes; what is
    sharded, and lies in parts on the ranks, is left out. `apart` is what differed, by name.
    """

    def __init__(self, model: nn.Module, named: Mapping[str, Tensor]) -> None:
        buffers = {n: b for n, b in model.named_buffers() if n.endswith(STATISTICS)}
        kept = {name: each for name, each in {**named, **buffers}.items() if _is_whole(each)}
        self.names, self.tensors = tuple(kept), tuple(kept.values())
        self._parameters = len(named)
        self._columns = [place for place, name in enumerate(named) if name in kept]
        self._pieces = [p for i, each in enumerate(self.tensors) for p in _pieces(i, each)]
        self._turn: Sequence[Piece] = self._pieces
        self._next = 0
        self._alike: dict[int, int] = {}  # by piece's number in `_pieces`: the newest step
        self._numbers = {piece: number for number, piece in enumerate(self._pieces)}
        self._torn: set[Piece] = set()
        self._odd: set[int] = set()  # places whose gradients differed
        self._grads = np.full(len(self.names), "none", dtype=object)
        self.apart: dict[str, Apart] = {}
        self.gradients_agree = False  # whether those of any trained parameter ever did

    @torch.no_grad()
    def waiting(self) -> list[Tensor]:
        """What is to be read: two halves of each sum, exact in float32."""
        if not self._turn:
            return []
        sums = [_sum(self.tensors[each.place], each) for each in self._turn]
        whole = torch.stack(sums)  # (piece,)
        return [torch.cat([whole >> 16, whole & 0xFFFF]).float()]

    @property
    def told(self) -> int:
        """How many numbers `own` gives."""
        return 2 * len(self._turn) + len(self._columns)

    def own(self, numbers: Doubles, norms: Doubles) -> Doubles:
        """What this rank tells the others: the halves of its sums, then its gradient norms.

        norms: (place,) of the named parameters.
        """
        known = len(norms) == self._parameters  # no parameter has come since
        told = norms[self._columns] if known else np.full(len(self._columns), ABSENT)
        return np.concatenate([numbers, np.where(np.isfinite(told), told, ABSENT)])

    def take(self, step: int, low: Doubles, high: Doubles) -> list[str]:
        """The names of those that differ now, from the least and the largest of what was told."""
        count = len(self._turn)
        same = (low[: 2 * count] == high[: 2 * count]).reshape(2, count).all(0)  # (piece,)
        self._note_grads(low[2 * count :], high[2 * count :])
        found = []
        for piece, is_same in zip(self._turn, same.tolist(), strict=True):
            if is_same:
                self._meet(piece, step)
            else:
                self._part(piece, step)
                found.append(self.names[piece.place])
        self._plan()
        return list(dict.fromkeys(found))

    def _note_grads(self, low: Doubles, high: Doubles) -> None:
        """The gradients' agreement of this step counts for the parameters that it makes."""
        alike = high - low <= NEAR * np.abs(high)
        there = high >= 0
        kinds = np.where(~there, "none", np.where(alike, "same", "differ"))
        self._before = self._grads.copy()
        self._grads[: len(kinds)] = kinds
        self._odd = set(np.flatnonzero(kinds == "differ").tolist())
        self.gradients_agree |= bool((alike & (high > 0)).any())

    def _meet(self, piece: Piece, step: int) -> None:
        self._alike[self._numbers[piece]] = step
        if piece in self._torn:
            self._torn.discard(piece)
            self.apart[self.names[piece.place]].met = True

    def _part(self, piece: Piece, step: int) -> None:
        self._torn.add(piece)
        name = self.names[piece.place]
        if name not in self.apart:
            since = self._alike.get(self._numbers[piece])
            kinds = self._grads if since is None else self._before
            self.apart[name] = Apart(step, since, str(kinds[piece.place]))

    def _plan(self) -> None:
        """Next are those whose gradients differ, then others in turn, as many as a step may."""
        odd = [piece for piece in self._pieces if piece.place in self._odd]
        start = self._next % max(1, len(self._pieces))
        in_turn = [*self._pieces[start:], *self._pieces[:start]]
        chosen: dict[Piece, None] = {}
        left = A_STEP
        for piece in [*odd, *in_turn]:
            left -= 0 if piece in chosen else piece.last - piece.first
            if left < 0 and chosen:
                break
            chosen[piece] = None
        self._next += sum(piece.place not in self._odd for piece in chosen)
        self._turn = list(chosen)

    def sums(self, names: Sequence[str]) -> list[int]:
        """The whole sum of each of these, as this rank holds it."""
        known = dict(zip(self.names, self.tensors, strict=True))
        return [int(_sum(known[each], Piece(0, 0, known[each].numel()))) for each in names]

    def sample(self, name: str) -> Doubles:
        """(number,) an even sample of the tensor, as this rank holds it."""
        flat = self.tensors[self.names.index(name)].detach().reshape(-1)
        kept = flat[:: max(1, flat.numel() // 4096)]
        numbers: Doubles = kept.to("cpu", torch.float64).numpy()
        return numbers

    def held(self, names: Sequence[str]) -> dict[str, str]:
        """Who is to keep each alike: `ddp`, `broadcast` by it, an `averager` or `nobody`.

        Or why it is none's to keep: `ignored` by its DistributedDataParallel, or `parallel`.
        """
        around, averaged = reducers(), _averages()
        known = dict(zip(self.names, self.tensors, strict=True))
        return {each: _keeper(known[each], around, averaged) for each in names}


def _keeper(tensor: Tensor, around: Sequence[Any], averaged: bool) -> str:
    if _is_split(tensor):
        return "parallel"
    for each in around:
        inner = _name_in(each.module, tensor)
        if inner in each.parameters_to_ignore:
            return "ignored"
        if inner is not None and not isinstance(tensor, nn.Parameter):
            return "broadcast" if each.broadcast_buffers else "nobody"
        if inner is not None:
            return "averager" if averaged else "ddp"
    return "averager" if averaged else "nobody"


def _is_whole(tensor: Tensor) -> bool:
    """Whether each rank holds all of it, and it can be read as bits."""
    odd = is_sharded(tensor) or getattr(tensor, "_is_flat_param", False)
    odd = odd or torch.nn.parameter.is_lazy(tensor) or tensor.layout is not torch.strided
    return not odd and tensor.numel() > 0 and tensor.dtype.itemsize in (*INTEGERS, 16)


def _name_in(module: nn.Module, tensor: Tensor) -> str | None:
    named = chain(module.named_parameters(), module.named_buffers())
    return next((name for name, each in named if each is tensor), None)


def _averages() -> bool:
    """Whether parameters are averaged now and then, by torch's own model averaging."""
    module = sys.modules.get("torch.distributed.algorithms.model_averaging.averagers")
    return module is not None and any(
        issubclass(type(each), module.ModelAverager) for each in gc.get_objects()
    )


def _is_split(tensor: Tensor) -> bool:
    """Whether it says itself that each rank has its own, as Megatron's and experts' do."""
    return bool(
        getattr(tensor, "tensor_model_parallel", False) or not getattr(tensor, "allreduce", True)
    )


def _pieces(place: int, tensor: Tensor) -> Iterator[Piece]:
    count = tensor.numel()
    size = PIECE if tensor.is_contiguous() else count
    for first in range(0, count, size):
        yield Piece(place, first, min(count, first + size))


def _sum(tensor: Tensor, piece: Piece) -> Tensor:
    """The sum, (), of the bits read as integers, as far as 32 bits hold it: exact in any order."""
    numbers = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    bits = numbers.view(INTEGERS[numbers.dtype.itemsize])
    if piece.last - piece.first < tensor.numel():
        scale = bits.numel() // tensor.numel()
        bits = bits.reshape(-1)[piece.first * scale : piece.last * scale]
    wide = bits.dtype is torch.int64
    return (bits.sum() & 0xFFFFFFFF if wide else bits.sum(dtype=torch.int32)).to(torch.int32)
