"""The operator of a birth from near: what it read, and which operators had made that."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from nan_watch.origin.choices import chooses, hides
from nan_watch.origin.events import Event
from nan_watch.origin.fused_cells import DECOMPOSED
from nan_watch.origin.held import values_of
from nan_watch.origin.operators import Operator, operator
from nan_watch.origin.sources import here, module_names
from probes.nested import tensors_in
from probes.operator_mode import OperatorMode
from probes.sequences import Sequences, next_sequence

WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FAR = 400  # operators that are looked through for one that made a tensor


@dataclass(frozen=True, slots=True)
class Made:
    """An operator that made a tensor.

    innermost: the innermost line of anybody's. dtype: of what it wrote. largest: its largest
    magnitude, NaN where there is one, None of integers. zeros: whether it wrote an exact zero.
    above: whether none of what it wrote is under zero.
    sequence: of the autograd node at work. hides: whether it is of the backward pass of an operator
    that chooses, and lets no gradient through to the element that the closeup is of.
    parents: those that made what it read, in the order of its arguments; what was there before
    the step has none.
    """

    op: str
    node: str | None
    site: str
    source: str | None
    dtype: torch.dtype
    largest: float | None
    innermost: str | None = None
    sequence: int | None = None
    hides: bool = False
    zeros: bool = False
    above: bool = False
    parents: tuple[Made, ...] = field(default=(), repr=False)

    def line(self) -> Iterator[Made]:
        """Itself, then its ancestors, nearest first, each once."""
        queue, seen = deque([self]), {id(self)}
        while queue and len(seen) < FAR:
            made = queue.popleft()
            yield made
            for parent in made.parents:
                if id(parent) not in seen:
                    seen.add(id(parent))
                    queue.append(parent)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operator, with copies of the tensors that it read and of the first it wrote.

    made: who made each tensor among `args`, by its place there; absent where nobody in the step.
    library: as a `Place` has it.
    """

    op: str
    site: str
    source: str | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Tensor | None
    made: Mapping[int, Made]
    library: str | None = None

    @property
    def innermost(self) -> str | None:
        """The innermost line of anybody's."""
        return self.library or self.source

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that it read, in order, lists of them included."""
        return list(tensors_in((self.args, self.kwargs)))

    def arg(self, place: int, default: Any = None) -> Any:
        """The argument at the place."""
        return self.args[place] if place < len(self.args) else default

    def values(self, place: int = 0) -> Tensor | None:
        """The numbers of the tensor at the place; None where there is none that can be read."""
        found = self.arg(place)
        return values_of(found) if isinstance(found, Tensor) else None

    def numbers(self, place: int = 0) -> Tensor | None:
        """As `values`, and what is whole numbers, or yes and no, as floats."""
        found = self.arg(place)
        if isinstance(found, Tensor) and found.dtype in WHOLE and found.numel():
            return found.double()
        return self.values(place)

    def bad(self) -> Tensor | None:
        """(...) whether each element that it wrote is NaN; or infinite, where none is NaN."""
        out = None if self.out is None else values_of(self.out)
        if out is None:
            return None
        nan = out.isnan()
        return nan if nan.any() else out.isinf()


@dataclass(frozen=True, slots=True)
class Closeup:
    """The call at a birth, and the forward call whose backward it was, where it was in one."""

    birth: Call
    forward: Call | None = None

    @property
    def written(self) -> Call:
        """The call as the user wrote it: the forward one, whichever pass went wrong."""
        return self.birth if self.forward is None else self.forward

    def at_bad(self, place: int = 0) -> Tensor | None:
        """(element,) what the written call read at the place where the birth is not finite.

        All of its numbers where the two have no element in common, as with a reduction.
        """
        return _at(self.birth.bad(), self.written.numbers(place))

    def read_at_bad(self, place: int) -> Tensor | None:
        """(element,) the same of what the operator of the birth itself read."""
        return _at(self.birth.bad(), self.birth.values(place))


def _at(bad: Tensor | None, values: Tensor | None) -> Tensor | None:
    if values is None or bad is None:
        return values
    try:
        return values.expand_as(bad)[bad]
    except RuntimeError:
        return values.flatten()


class Lens(OperatorMode):
    """Run the step of a ledger again inside it; then `closeup` tells of the event's operator.

    begin: the next sequence number of autograd when the ledger was made.
    """

    def __init__(self, model: nn.Module, event: Event, begin: int, decompose: bool) -> None:
        super().__init__()
        self._event = event
        self._ticks = 0
        self._decompose = decompose
        self._names = module_names(model)
        self._makers = _Makers()
        self._sequences = Sequences()
        self._birth: Call | None = None
        self._forward: Call | None = None
        backward = event.phase == "backward" and event.sequence is not None
        self._sequence = (event.sequence or 0) - begin + next_sequence() if backward else None

    @property
    def closeup(self) -> Closeup | None:
        """What was seen; None where the step did not come by the operator again."""
        if self._birth is None or self._birth.op != self._event.op:
            return None
        return Closeup(self._birth, self._forward)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The operator has run; who made what is known, and the one asked for was looked at."""
        kwargs = kwargs or {}
        if self._decompose and func in DECOMPOSED:
            with self:
                return DECOMPOSED[func](*args, **kwargs)
        self._ticks += 1
        known = operator(func)
        is_birth = self._ticks == self._event.tick
        is_forward = self._is_forward(next(iter(known.written(args, kwargs)), None))
        kept = _copied(args) if is_birth or is_forward else ()
        named = {key: _copy(value) for key, value in kwargs.items()} if kept else {}
        made = {i: m for i, a in enumerate(args) if (m := self._makers.of(a)) is not None}
        out = func(*args, **kwargs)
        self._sequences.saw(known.name, args, out)
        if not known.views:
            self._remember(known, func, args, kwargs, out)
        if is_birth or is_forward:
            place = here(self._names)
            first = next(tensors_in(out), None)
            wrote = None if first is None else first.detach().clone()
            at = place.site, place.source
            call = Call(known.name, *at, kept, named, wrote, made, place.library)
            self._birth = call if is_birth else self._birth
            self._forward = call if is_forward else self._forward
        return out

    def _is_forward(self, overwritten: Tensor | None) -> bool:
        """Whether it is the first operator of the forward call whose backward gave birth."""
        return (
            self._sequence is not None
            and self._forward is None
            and torch._C._current_autograd_node() is None
            and self._sequences.of(overwritten) == self._sequence
        )

    def _remember(
        self,
        known: Operator,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        out: Any,
    ) -> None:
        results = list(tensors_in(out))
        results = results or known.written(args, kwargs)  # such as `_foreach_add_`
        if not results:
            return
        node, place = torch._C._current_autograd_node(), here(self._names)
        name = node.name().rpartition("::")[2] if node is not None else None
        sequence = node._sequence_nr() if node is not None else None
        read = [self._makers.of(each) for each in tensors_in((list(args), dict(kwargs)))]
        hidden = False
        if chooses(name) and results[0].is_floating_point():
            incoming = self._incoming(args, sequence)
            if incoming is not None:
                hidden = hides(known, func, args, kwargs, incoming, self._event.where)
        made = Made(
            known.name,
            name,
            place.site,
            place.source,
            results[0].dtype,
            _largest(results[0]),
            place.innermost,
            sequence,
            hidden,
            *_zeros(results[0]),
            tuple(each for each in read if each is not None),
        )
        for each in results:
            self._makers.made(each, made)

    def _incoming(self, args: Sequence[Any], sequence: int | None) -> Tensor | None:
        """The gradient that a backward operator was given, by another node, or by its own."""
        floats = [a for a in args if isinstance(a, Tensor) and a.is_floating_point()]
        makers = [self._makers.of(each) for each in floats]
        backward = [made is not None and made.node is not None for made in makers]
        own = [made is not None and made.sequence == sequence for made in makers]
        pairs = list(zip(floats, backward, own, strict=True))
        others = [each for each, is_backward, is_own in pairs if is_backward and not is_own]
        started = [each for each, _, is_own in pairs if not is_own]  # by the loss's own gradient
        return next(iter([*others, *started, *floats]), None)


class _Makers:
    """Who made what each storage holds; a reference keeps its address from being used again."""

    def __init__(self) -> None:
        self._by_storage: dict[int, tuple[StorageWeakRef, Made]] = {}

    def of(self, value: Any) -> Made | None:
        """Who made the tensor; None of what is no tensor, or was there before the step."""
        storage = _storage(value)
        found = None if storage is None else self._by_storage.get(storage._cdata)
        return None if found is None else found[1]

    def made(self, tensor: Tensor, made: Made) -> None:
        """The operator made it."""
        storage = _storage(tensor)
        if storage is not None:
            self._by_storage[storage._cdata] = (StorageWeakRef(storage), made)


def _storage(value: Any) -> torch.UntypedStorage | None:
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_nested:
        return None
    return value.untyped_storage()


def _largest(tensor: Tensor) -> float | None:
    values = values_of(tensor)
    return None if values is None else float(torch.linalg.vector_norm(values, math.inf))


def _zeros(tensor: Tensor) -> tuple[bool, bool]:
    values = values_of(tensor)
    if values is None:
        return False, False
    return bool((values == 0).any()), bool((values >= 0).all())


def _copied(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_copy(each) for each in args)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(each) for each in value)
    return value
