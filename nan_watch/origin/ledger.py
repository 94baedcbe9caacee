"""Every non-finite value of a step, over every operator of it: born, spread and healed.

Kept are the operators that read or write something that is not finite, each linked to those that
wrote what it read. Told apart are NaN, +inf and -inf. What was poisoned before the step, its
parameters, buffers, batch and constants, has an event of its own, of phase `data`.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nan_watch.origin.events import EMPTY, LOGS, Event, Read
from nan_watch.origin.fused_cells import DECOMPOSED
from nan_watch.origin.held import (
    Held,
    Where,
    held,
    held_number,
    is_binary,
    is_mask,
    largest_finite,
    values_of,
    where,
)
from nan_watch.origin.memory import Memory
from nan_watch.origin.operators import Operator, operator
from nan_watch.origin.recurrent import Recurrences
from nan_watch.origin.sources import OPTIMIZER, Place, here, module_names
from probes.batch import leaves
from probes.nested import tensors_in
from probes.operator_mode import OperatorMode
from probes.sequences import Sequences, next_sequence
from probes.subject import Batch

READERS = ("aten.embedding", "aten.index", "aten.index_select")


@dataclass(slots=True)
class _Call:
    """One call of an operator: what it reads, kept from before it writes."""

    operator: Operator
    args: Sequence[Any]
    read: list[Tensor]
    bad: list[tuple[Tensor | None, Read]]
    indices: Tensor | None
    sequence: int


class Ledger(OperatorMode):
    """Run a step inside it, forward and backward; then `events` tells, oldest first.

    It changes nothing that is computed, but decomposes fused recurrent cells on request.
    """

    def __init__(self, model: nn.Module, batch: Batch = None, decompose: bool = False) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.ticks = 0
        self.begin = next_sequence()
        self.recurrences = Recurrences(model)
        self._decompose = decompose
        self._names = module_names(model)
        self._owners = _owners(model, self._names)
        self._memory = Memory()
        self._nodes = Sequences()
        self._sequences: list[int] = []
        self._places: list[Place] = []
        self._ticks: list[int] = []
        self._numbers: dict[str, int] = {}  # kind of a python number read back -> its event
        self._given(model, batch)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The operator has run, and is in the ledger if it met something that is not finite."""
        kwargs = kwargs or {}
        if self._decompose and func in DECOMPOSED:
            with self:
                return DECOMPOSED[func](*args, **kwargs)
        self.ticks += 1
        known = operator(func)
        self._note(known, args)
        written = known.written(args, kwargs)
        call = self._before(known, args, kwargs, written)
        out = func(*args, **kwargs)
        self._nodes.saw(known.name, args, out)
        self.recurrences.copied(known, args, out)
        self._after(call, out, written)
        return out

    def writers(self, tensor: Tensor) -> tuple[int, ...]:
        """The events that left something not finite in the tensor, oldest first."""
        if not self._memory.knows(tensor):
            self._source("constant", None, tensor, "<data>")
        return self._memory.writers(tensor)

    # --- sources -------------------------------------------------------------------------------

    def _given(self, model: nn.Module, batch: Batch) -> None:
        """Everything that is known to be there before the step has been looked at."""
        for name, parameter in model.named_parameters():
            self._source("parameter", name, parameter, self._site(name))
        for name, buffer in model.named_buffers():
            self._source("buffer", name, buffer, self._site(name))
        for path, leaf in leaves(batch).items():
            for tensor in tensors_in(getattr(leaf, "data", leaf)):
                self._source("batch", path, tensor, "<data>")

    def _site(self, name: str) -> str:
        owner = name.rpartition(".")[0]
        return owner or next(iter(self._names.values()))

    def _source(self, given: str, name: str | None, tensor: Tensor, site: str) -> None:
        found = held(tensor)
        event = None
        if found is not None:
            event = self._add(
                op=None, phase="data", place=Place(site, None), held=found, given=given, name=name,
                nan_born=found.nan > 0, inf_born=found.nan == 0,
                meant=given != "parameter" and is_mask(tensor),
                where=where(tensor, nan=found.nan > 0), largest_finite=largest_finite([tensor]),
            )  # fmt: skip
        self._memory.wrote(tensor, event, fresh=not self._memory.knows(tensor))

    def _constant(self, tensor: Tensor) -> None:
        """A tensor that no operator of the step made: a constant, or kept from an earlier step."""
        if held(tensor) is not None:
            place = here(self._names)
            self._source("constant", place.source, tensor, place.site)

    # --- one operator --------------------------------------------------------------------------

    def _note(self, known: Operator, args: Sequence[Any]) -> None:
        """Where the next autograd node is made is known by its sequence number."""
        self.recurrences.see(known, args, self._backward_step)
        sequence = next_sequence() - 1
        if not self._sequences or sequence > self._sequences[-1]:
            self._sequences.append(sequence)
            self._places.append(self._place(args))
            self._ticks.append(self.ticks)

    def _backward_step(self) -> Any:
        node = torch._C._current_autograd_node()
        place = self._forward_place(node) if node is not None else None
        return place.rnn if place is not None else None

    def _before(
        self, known: Operator, args: Sequence[Any], kwargs: Mapping[str, Any], written: list[Tensor]
    ) -> _Call:
        over = {id(tensor) for tensor in written}
        read, bad = [], []
        for tensor in () if known.views else tensors_in((args, kwargs)):
            if id(tensor) in over and not known.reads_what_it_writes:
                continue
            values = tensor.detach().clone() if id(tensor) in over else tensor
            read.append(values)
            bad += self._read(tensor, values)
        for number in _numbers_in((args, kwargs)):
            kinds = held_number(number)
            if kinds is not None:
                bad.append((None, Read(kinds, self._number_writers(kinds))))
        sequence = self._nodes.of(next(iter(written), None))
        return _Call(known, args, read, bad, _indices(known, args), sequence)

    def _read(self, place: Tensor, values: Tensor) -> list[tuple[Tensor | None, Read]]:
        if not self._memory.knows(place):
            self._constant(place)
        elif not self._memory.may_be_bad(place):
            return []
        found = held(values)
        if found is None:
            return []
        writers = self._memory.writers(place) or self._uninitialised(place, found)
        return [(values, Read(found, writers))]

    def _uninitialised(self, tensor: Tensor, found: Held) -> tuple[int, ...]:
        mark = self._memory.empty_mark(tensor)
        if mark is None:
            return ()
        if isinstance(mark, int):
            return (mark,)
        op, place = mark
        event = self._add(
            op=op, phase="forward", place=place, held=found, given=EMPTY, name=EMPTY,
            nan_born=found.nan > 0, inf_born=found.nan == 0, where=where(tensor, found.nan > 0),
        )  # fmt: skip
        self._memory.mark(tensor, event)
        return (event,)

    def _number_writers(self, kinds: Held) -> tuple[int, ...]:
        event = self._numbers.get("nan" if kinds.nan else "inf")
        return () if event is None else (event,)

    def _after(self, call: _Call, out: Any, written: list[Tensor]) -> None:
        results = [t for t in tensors_in(out) if not any(t is each for each in written)]
        shared = {self._memory.key(t) for t in (*tensors_in(list(call.args)), *written)}
        fresh = [t for t in results if self._memory.key(t) not in shared]
        if call.operator.empties:
            for tensor in results:
                self._memory.emptied(tensor, (call.operator.name, self._place(())))
            return
        number = held_number(out)
        wrote = [(t, held(t), False) for t in written] + [(t, held(t), True) for t in fresh]
        wrote += [(t, held(t), False) for t in call.operator.written_untold(call.args)]
        bad = [(tensor, kinds) for tensor, kinds, _ in wrote if kinds is not None]
        spread_by_view = results and not wrote  # its storage tells already
        event = None
        met = any(_came(tensor, read) for tensor, read in call.bad)
        if bad or number or (met and not spread_by_view):
            event = self._event(call, bad, number)
        for tensor, kinds, is_fresh in wrote:
            self._memory.wrote(tensor, event if kinds else None, fresh=is_fresh)
        if number is not None and event is not None:
            self._numbers["nan" if number.nan else "inf"] = event

    def _event(self, call: _Call, bad: list[tuple[Tensor, Held]], number: Held | None) -> int:
        node = torch._C._current_autograd_node()
        place = self._place(call.args)
        backward = node is not None and not place.recomputed
        updates = place.site == OPTIMIZER
        common: dict[str, Any] = {
            "op": call.operator.name,
            "place": place,
            "phase": "backward" if backward else "update" if updates else "forward",
            "node": node.name().rpartition("::")[2] if backward else None,
            "sequence": node._sequence_nr() if backward else call.sequence,
            "forward_tick": self._forward_tick(node) if backward else None,
            "reads": tuple(_reaching(tensor, read, call, bad) for tensor, read in call.bad),
            "shapes": tuple(tuple(t.shape) for t in call.read),
        }
        if not bad:
            return self._add(held=number, **common)
        tensor, kinds = bad[0]
        came = [r for r, (t, _) in zip(common["reads"], call.bad, strict=True) if _came(t, r)]
        nan_born = kinds.nan > 0 and not any(read.held.nan and read.reaches for read in came)
        inf_born = kinds.inf > 0 and not kinds.nan and _is_fresh(tensor, call)
        born = nan_born or inf_born
        place_of_bad = (
            where(tensor, nan=kinds.nan > 0) if born or call.indices is not None else None
        )
        return self._add(
            held=_together([kinds for _, kinds in bad]), nan_born=nan_born, inf_born=inf_born,
            meant=inf_born and _is_meant(call), where=place_of_bad,
            row=_row(place_of_bad, call.indices),
            largest_finite=largest_finite(call.read) if born else None, **common,
        )  # fmt: skip

    def _add(self, **fields: Any) -> int:
        self.events.append(Event(index=len(self.events), tick=self.ticks, **fields))
        return len(self.events) - 1

    # --- places --------------------------------------------------------------------------------

    def _place(self, tensors: Sequence[Any]) -> Place:
        """Of the operator at work; in a backward pass, of the operator whose backward it is."""
        place = here(self._names)
        node = torch._C._current_autograd_node()
        if node is None or place.recomputed:
            return replace(place, rnn=self.recurrences.at(place.site, tensors))
        forward = self._forward_place(node)
        if forward is None:
            return place
        if place.custom and place.source is not None:  # the user's own backward, or a hook
            return replace(place, site=forward.site)
        return replace(forward, custom=False, recomputed=False)

    def _forward_place(self, node: Any) -> Place | None:
        """Where the node was made: by the last operator that began before it was."""
        if node.name().endswith("AccumulateGrad"):
            return Place(self._owners.get(id(getattr(node, "variable", None)), "<loss>"), None)
        found = self._forward_index(node)
        return self._places[found] if found >= 0 else None

    def _forward_index(self, node: Any) -> int:
        return bisect.bisect_right(self._sequences, node._sequence_nr()) - 1

    def _forward_tick(self, node: Any) -> int | None:
        found = -1 if node.name().endswith("AccumulateGrad") else self._forward_index(node)
        return self._ticks[found] if found >= 0 else None


def _owners(model: nn.Module, names: Mapping[int, str]) -> dict[int, str]:
    """The id of every parameter with the name of its module."""
    return {id(p): names[id(m)] for m in model.modules() for p in m._parameters.values()}


def _numbers_in(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    if isinstance(value, (list, tuple)):
        return [number for each in value for number in _numbers_in(each)]
    if isinstance(value, Mapping):
        return [number for each in value.values() for number in _numbers_in(each)]
    return []


def _indices(known: Operator, args: Sequence[Any]) -> Tensor | None:
    """The integer tensor by which a row of a table is read along its first axis."""
    if known.name not in READERS or (known.name == "aten.index_select" and args[1] != 0):
        return None
    found = next(tensors_in(list(args[1:])), None)
    if found is None or found.dtype not in (torch.int32, torch.int64):
        return None
    return found if known.name != "aten.index" or args[1][0] is not None else None


def _row(place: Where | None, indices: Tensor | None) -> int | None:
    if place is None or indices is None or len((place.first or ((),))[0]) < indices.ndim:
        return None
    return int(indices[place.first[0][: indices.ndim]])


def _together(kinds: Sequence[Held]) -> Held:
    return Held(
        nan=sum(each.nan for each in kinds),
        plus=sum(each.plus for each in kinds),
        minus=sum(each.minus for each in kinds),
        total=sum(each.total for each in kinds),
    )


def _came(tensor: Tensor | None, read: Read) -> bool:
    """Whether it came from somewhere, and is not a number that stands in the call itself."""
    return tensor is not None or bool(read.writers)


def _reaching(
    tensor: Tensor | None, read: Read, call: _Call, bad: list[tuple[Tensor, Held]]
) -> Read:
    """The read, with whether it reaches what was written: a branch not taken by where does not."""
    if tensor is None or not bad or not call.operator.pointwise:
        return read
    values, out = values_of(tensor), values_of(bad[0][0])
    if values is None or out is None or values.ndim > out.ndim:
        return read
    sizes = zip(values.shape[::-1], out.shape[::-1], strict=False)
    if any(size not in (1, wide) for size, wide in sizes):
        return read
    return replace(read, reaches=bool((~values.isfinite() & ~out.isfinite()).any()))


def _is_fresh(out: Tensor, call: _Call) -> bool:
    """Whether an infinity stands where nothing that was read was other than finite."""
    came = [(tensor, read) for tensor, read in call.bad if _came(tensor, read)]
    if not came:
        return True
    if not call.operator.pointwise or any(tensor is None for tensor, _ in call.bad):
        return False
    new = _infinite(out)
    for tensor, _ in came:
        values = None if tensor is None else values_of(tensor)
        if new is None or values is None or values.shape != new.shape:
            return False
        new = new & values.isfinite()
    return new is not None and bool(new.any())


def _infinite(tensor: Tensor) -> Tensor | None:
    values = values_of(tensor)
    return None if values is None else values.isinf()


def _is_meant(call: _Call) -> bool:
    """Whether the infinity was asked for: a number of the call, or the log of a mask."""
    if any(tensor is None and not read.writers for tensor, read in call.bad):
        return True
    if call.operator.name not in LOGS or len(call.read) != 1:
        return False
    given = call.args[0]  # what was read is a copy of it where it was overwritten
    return not given.requires_grad and is_binary(call.read[0])
