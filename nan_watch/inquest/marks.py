"""Where a plain loop stood when it called its model, and when its backward pass began."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType

import torch
from torch import Tensor, nn

from nan_watch.inquest.turns import Names, Turn, Turns
from nan_watch.origin.sources import Kind, kind_of
from probes.modules import called_modules
from probes.replay import RandomState, Snapshot, Snapshots

KEPT = 16  # places at which the model was called without gradients
MORE = 8  # calls that are looked at after the first with gradients, which may be of another part


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a step.

    lines: of each of the user's own frames, the innermost first, the id, the code and the line.
    snapshot: what the step started from then.
    """

    lines: tuple[tuple[int, CodeType, int], ...]
    snapshot: Snapshot | None = None


class Marks:
    """Notes the calls that a step begins with, a few with gradients too, and its backward pass.

    Where it has several passes, so for each; a loop that comes by the same place again has begun
    anew, as with the next of the micro-batches that it accumulates; then `turns` has the passes
    before. `begins` are the calls, `end` where the newest pass began, `root` the number that it
    began from, and `names` what was known there. `start` is what a call with gradients that is
    kept starts from; it is told before.
    """

    def __init__(self, model: nn.Module) -> None:
        self.begins: deque[Mark] = deque(maxlen=KEPT)
        self.end: Mark | None = None
        self.root: Tensor | None = None
        self.start: Snapshot | None = None
        self._snapshots = Snapshots(model)
        self._kept = list(called_modules(model)) == [model]
        self._settled = self._went_back = False
        self._more = 0
        self._first: tuple[tuple[int, CodeType, int], ...] = ()
        self.names: Names | None = None
        self.turns = Turns()

    def first_line(self, code: CodeType) -> int | None:
        """The line of the code at which the newest step called its model first, if it did."""
        begun = self.begins[0].lines if self.begins else self._first
        return next((line for _, each, line in begun if each is code), None)

    def enter(self) -> None:
        """The model, or a part of it that is called by itself, is about to be called."""
        if self._settled:
            self._more += 1
            if self._more > MORE:
                return
        self._settled = self._settled or torch.is_grad_enabled()
        lines = tuple(_lines(sys._getframe(1)))
        if any(each.lines == lines for each in self.begins):
            if not self._went_back:
                return
            self._keep_turn()
            self.begins.clear()
        self._went_back = False
        own = not (self._settled and self._kept)
        start = self._snapshots.take(RandomState.take()) if own else self.start
        self.begins.append(Mark(lines, start))

    def leave(self, root: Tensor) -> None:
        """A backward pass is about to begin from the number."""
        frames = list(users_frames(sys._getframe(1)))
        self.end, self.root = Mark(tuple(map(_line, frames))), root.detach()
        began = {(at, code) for mark in self.begins for at, code, _ in mark.lines}
        frame = next((each for each in frames if (id(each), each.f_code) in began), None)
        self.names = None if frame is None else Names.of(frame)
        self._settled, self._went_back, self._more = False, True, 0

    def forget(self) -> None:
        """The step is over."""
        self._first = self.begins[0].lines if self.begins else ()
        self.begins.clear()
        self.end, self.root, self.start = None, None, None
        self._settled = self._went_back = False
        self._more = 0
        self.names = None
        self.turns.forget()

    def passes(self) -> list[Turn]:
        """Those of the step whose begin and end are known, the oldest first."""
        if self.end is None or self.root is None:
            return list(self.turns.kept)
        return [*self.turns.kept, Turn(tuple(self.begins), self.end, self.root, self.names)]

    def _keep_turn(self) -> None:
        if self.end is not None and self.root is not None:
            self.turns.keep(tuple(self.begins), self.end, self.root, self.names)


def users_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The frame and its callers, as far as they run the user's own code, the innermost first."""
    while frame is not None:
        if kind_of(frame.f_code.co_filename) is Kind.USER:
            yield frame
        frame = frame.f_back


def _lines(frame: FrameType) -> Iterator[tuple[int, CodeType, int]]:
    yield from map(_line, users_frames(frame))


def _line(frame: FrameType) -> tuple[int, CodeType, int]:
    return id(frame), frame.f_code, frame.f_lineno
