"""A plain loop's own lines, from where it calls its model to its backward pass, run again."""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from itertools import islice
from types import FrameType
from typing import Any

import torch
from torch import Tensor, distributed
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from nan_watch.case.symptom import Symptom
from nan_watch.inquest.captured import Captured
from nan_watch.inquest.hold import UNTIL, Inquest, Repeatable
from nan_watch.inquest.marks import Mark, users_frames
from nan_watch.inquest.models_part import Part, lacks
from nan_watch.inquest.passage import Passage, passage_until, passages
from nan_watch.inquest.turns import Key, Turn
from probes.finding import Evidence, Finding
from probes.replay import Replayed, Snapshot, is_finite, replay
from probes.stepping.roots import noted_roots

TRIED = 4  # stretches of lines
COPIED = (list, dict, set)  # what the lines may add to, and which are given to them as copies


@dataclass(frozen=True, slots=True)
class OwnLines:
    """Lines of a frame that is at work, or was.

    names: what they knew. snapshot: what they started from. root: the number they came to.
    within: what they are, in words, where they go on behind the backward pass.
    """

    passage: Passage
    names: Mapping[str, Any]
    snapshot: Snapshot
    root: Tensor
    within: str | None = None

    def run(self) -> Tensor:
        """They have run again, on names of their own; returns the number they go back from."""
        names = {k: v.copy() if type(v) in COPIED else v for k, v in self.names.items()}
        roots: list[Tensor] = []
        quiet = redirect_stdout(io.StringIO())
        with no_step(), no_word(), quiet, noted_roots(roots.append, live=True):
            exec(self.passage.code, names)
        return roots[-1]


def by_own_lines(
    captured: Captured, inquest: Inquest, symptom: Symptom, finding: Finding
) -> Finding | None:
    """The finding as the loop's own lines tell it; None where they do not, or another story."""
    lines = next((each for each in _lines(captured) if _repeats(each, inquest)), None)
    if lines is None:
        return None
    batch = None if lacks(captured) else Part.known(captured).batch
    step = Repeatable(lines.run, lines.snapshot, batch, packs=False, within=lines.within)
    told = inquest.hold(symptom, finding, step)
    if inquest.found is None:
        return None
    if lines.within is not None:
        site = finding.site if told.site == "<loss>" else told.site
        told = replace(told, site=site, phase=finding.phase)
    said = Evidence("the loop's own lines, run again", str(lines.passage))
    none = Evidence(
        "no capsule", "it could not hold the loop's own lines; `watch.step(fn)` has one"
    )
    return replace(told, evidence=(*told.evidence, said, none))


def _lines(captured: Captured) -> Iterator[OwnLines]:
    """Of each pass of the step; those that came to no finite number first, then the newest."""
    if captured.is_tied:
        return
    present = {(id(f), f.f_code): f for f in users_frames(sys._getframe(1))}
    passes = list(reversed(captured.marks.passes()))
    for turn in sorted(passes, key=lambda each: is_finite(each.root)):
        yield from islice(_of_turn(turn, present if turn is passes[0] else {}), TRIED)
    if passes and is_finite(passes[0].root):
        yield from islice(_until_step(passes[0], present), TRIED)


def _of_turn(turn: Turn, present: Mapping[Key, FrameType]) -> Iterator[OwnLines]:
    """From each of the pass's first calls to where it began to go back, the first first."""
    known = set(present) | ({turn.names.frame} if turn.names is not None else set())
    for mark in turn.begins:
        frame, began = _shared(turn, mark, known)
        if frame is None or mark.snapshot is None:
            continue
        ends = next(line for at, code, line in turn.end.lines if (at, code) == frame)
        for found in passages(frame[1], began[frame], ends):
            names = _known(frame, turn, present)
            kept = {k: v for k, v in names.items() if k not in found.sets or not _is_result(v)}
            yield OwnLines(found, kept, mark.snapshot, turn.root)


def _until_step(turn: Turn, present: Mapping[Key, FrameType]) -> Iterator[OwnLines]:
    """From each of the pass's first calls to the step that is about to be taken."""
    for mark in turn.begins:
        frame, began = _shared(turn, mark, set(present))
        if frame is None or mark.snapshot is None:
            continue
        found = passage_until(frame[1], began[frame], present[frame].f_lineno)
        if found is not None:
            names = _known(frame, turn, present)
            kept = {k: v for k, v in names.items() if k not in found.sets or not _is_result(v)}
            yield OwnLines(found, kept, mark.snapshot, turn.root, UNTIL)


def _shared(turn: Turn, mark: Mark, known: Collection[Key]) -> tuple[Key | None, Mapping[Key, int]]:
    """The innermost frame that is known both where the pass began and where it began to go back.

    With the line of each frame where it began.
    """
    began = {(at, code): line for at, code, line in mark.lines}
    both = ((at, code) for at, code, _ in turn.end.lines)
    return next((key for key in both if key in began and key in known), None), began


def _known(frame: Key, turn: Turn, present: Mapping[Key, FrameType]) -> Mapping[str, Any]:
    """What the frame sees, or saw; results of the lines from their first run are among it."""
    if frame in present:
        return {**present[frame].f_globals, **present[frame].f_locals}
    return {} if turn.names is None else turn.names.all


def _is_result(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.grad_fn is not None or not is_finite(value))


def _repeats(lines: OwnLines, inquest: Inquest) -> bool:
    """Whether they come to the same number, and to something that is not finite."""
    try:
        again = replay(lines.run, inquest.model, lines.snapshot, optimizers=[inquest.optimizer])
    except Exception:  # what they need is gone, or they would have stepped an optimizer
        return False
    return bool(again.symptoms()) and _same(again, lines.root)


def _same(again: Replayed, root: Tensor) -> bool:
    loss = again.loss.reshape(root.shape)
    return bool(torch.isclose(loss, root, rtol=0.0, atol=0.0, equal_nan=True))


class _NoWord(TorchDispatchMode):
    """Inside, what speaks to other processes raises before it does, for they are not there."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator has run."""
        if "c10d" in func.namespace:
            raise RuntimeError(f"{func} would have waited for other processes")
        return func(*args, **(kwargs or {}))


def no_word() -> AbstractContextManager[Any]:
    """Inside, no word is sent to other processes, where there are some."""
    several = distributed.is_available() and distributed.is_initialized()
    alone = not several or distributed.get_world_size() < 2
    return nullcontext() if alone else _NoWord()  # type: ignore[no-untyped-call]


@contextmanager
def no_step() -> Iterator[None]:
    """Inside, an optimizer that is not held back raises before it writes."""

    def stop(optimizer: Optimizer, *_: Any) -> None:
        raise RuntimeError(f"a {type(optimizer).__name__} that is not watched would have stepped")

    handle = register_optimizer_step_pre_hook(stop)
    try:
        yield
    finally:
        handle.remove()
