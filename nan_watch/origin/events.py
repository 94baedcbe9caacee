"""What a ledger holds: operators that met something that is not finite, linked to each other."""

from __future__ import annotations

from dataclasses import dataclass

from nan_watch.origin.held import Held, Where
from nan_watch.origin.sources import Place
from probes.finding import Phase

LOGS = ("aten.log", "aten.log2", "aten.log10", "aten.log_")
EMPTY = "uninitialised"


@dataclass(frozen=True, slots=True)
class Read:
    """Something that an operator read and that is not finite, and the events that wrote it.

    reaches: whether any of it stands where what was written is not finite either.
    """

    held: Held
    writers: tuple[int, ...]
    reaches: bool = True


@dataclass(frozen=True, slots=True)
class Event:
    """An operator that read or wrote something that is not finite.

    tick: its number among all operators of the step. op: `aten.log`; of a source, None.
    given: what was not made by this step: `parameter`, `buffer`, `batch`, `constant`,
        `uninitialised`; its name is `name`. node, sequence: the autograd node at work in a
        backward pass, and the number that ties it to its forward operator.
    held: what it wrote; None where it healed what it read.
    nan_born, inf_born: written and not read. meant: an infinity that is written on purpose.
    shapes: of the tensors it read. largest_finite: magnitude among them.
    where: coordinates of the bad elements of a birth. row: row of a table that was read there.
    forward_tick: of a backward operator, the tick of the forward operator whose backward it is.
    """

    index: int
    tick: int
    op: str | None
    phase: Phase
    place: Place
    held: Held | None
    reads: tuple[Read, ...] = ()
    node: str | None = None
    sequence: int | None = None
    given: str | None = None
    name: str | None = None
    nan_born: bool = False
    inf_born: bool = False
    meant: bool = False
    shapes: tuple[tuple[int, ...], ...] = ()
    largest_finite: float | None = None
    where: Where | None = None
    row: int | None = None
    forward_tick: int | None = None
