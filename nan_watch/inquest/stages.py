"""What a loop runs from a step of its optimizer on, frame after frame, that may write."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from torch import nn

from nan_watch.inquest.glimpse import glimpse
from nan_watch.inquest.marks import Marks
from nan_watch.inquest.passage import Passage
from nan_watch.inquest.rounds import Level, Slice, Unfit, levels
from nan_watch.inquest.writers import ANY, writers

OUT = 3  # loops around a step that may have come to their next turn


@dataclass(frozen=True, slots=True)
class Stage:
    """Statements of the how-manieth of the user's frames, up to the end of a loop's body.

    targets: what the loop sets anew; None where it is no loop, but the function's end. tail: what
    comes after the step. head: what comes before it in the next turn, up to the model's call.
    given: names that are set from an iterator there.
    """

    frame: int
    targets: frozenset[str] | None
    tail: Passage | None
    head: Passage | None
    given: frozenset[str]

    @property
    def reads(self) -> set[str]:
        """Every name in them, and those that the loop sets."""
        passages = (each for each in (self.tail, self.head) if each is not None)
        return {*(self.targets or ()), *(n for each in passages for n in each.code.co_names)}


@dataclass(frozen=True, slots=True)
class Plan:
    """stages: the innermost first. targets: attributes that they may write, ANY among them.

    reads: the names that they know, of each frame. by_library: whether a library's function that
    is no optimizer's calls the step.
    """

    stages: tuple[Stage, ...]
    targets: frozenset[str]
    reads: Mapping[int, frozenset[str]]
    by_library: bool


def planned(
    frames: Sequence[FrameType], model: nn.Module, marks: Marks, by_library: bool
) -> Plan | None:
    """What runs until the loops around turn; None where none of it may write a parameter.

    frames: the user's own, from the step on.
    """
    around = [(i, each) for i, f in enumerate(frames) for each in levels(f)]
    loops = [i for i, (_, each) in enumerate(around) if each.targets is not None][:OUT]
    around = around[: loops[-1] + 1] if loops else []  # what is left has not ended
    wanted = frozenset((ANY, *(name.rpartition(".")[2] for name, _ in model.named_parameters())))
    slices = {i: _slice(frames[i], model, wanted) for i, _ in around}
    given = [set[str]() for _ in around]
    try:
        heads = [
            slices[i].writing(_ahead(each, frames[i], marks), new)
            for (i, each), new in zip(around, given, strict=True)
        ]
        tails = [slices[i].writing(each.tail) for i, each in reversed(around)][::-1]
    except Unfit:
        return None
    if not any((*tails, *heads)):
        return None
    parts = zip(around, tails, heads, given, strict=True)
    found = [Stage(i, e.targets, tail, head, frozenset(new)) for (i, e), tail, head, new in parts]
    targets = frozenset[str]().union(*(each.targets for each in slices.values()))
    reads: dict[int, frozenset[str]] = {}
    for each in found:
        reads[each.frame] = reads.get(each.frame, frozenset()) | each.reads
    return Plan(tuple(found), targets, reads, by_library)


def _slice(frame: FrameType, model: nn.Module, wanted: frozenset[str]) -> Slice:
    file = frame.f_code.co_filename
    return Slice(writers({**frame.f_globals, **glimpse(frame)}, model, file), wanted, file)


def _ahead(level: Level, frame: FrameType, marks: Marks) -> Sequence[ast.stmt]:
    """What comes before the model is called again."""
    until = marks.first_line(frame.f_code)
    if until is None or level.targets is None:
        return []
    return [each for each in level.head if (each.end_lineno or each.lineno) < until]
