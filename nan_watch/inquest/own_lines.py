"""A plain loop's own lines, from where it calls its model to its backward pass, run again."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from itertools import islice
from types import FrameType
from typing import Any

import torch
from torch import Tensor, distributed
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from nan_watch.case.symptom import Symptom
from nan_watch.inquest.captured import Captured
from nan_watch.inquest.hold import Inquest, Repeatable
from nan_watch.inquest.marks import users_frames
from nan_watch.inquest.models_part import Part, lacks
from nan_watch.inquest.passage import Passage, passages
from probes.finding import Evidence, Finding
from probes.replay import Replayed, Snapshot, is_finite, replay
from probes.stepping.roots import noted_roots

TRIED = 4  # stretches of lines
COPIED = (list, dict, set)  # what the lines may add to, and which are given to them as copies


@dataclass(frozen=True, slots=True)
class OwnLines:
    """Lines of a frame that is at work. names: what they knew. snapshot: what they started from."""

    passage: Passage
    names: Mapping[str, Any]
    snapshot: Snapshot

    def run(self) -> Tensor:
        """They have run again, on names of their own; returns the number they go back from."""
        names = {k: v.copy() if type(v) in COPIED else v for k, v in self.names.items()}
        roots: list[Tensor] = []
        with no_step(), redirect_stdout(io.StringIO()), noted_roots(roots.append, live=True):
            exec(self.passage.code, names)
        return roots[-1]


def by_own_lines(
    captured: Captured, inquest: Inquest, symptom: Symptom, finding: Finding
) -> Finding | None:
    """The finding as the loop's own lines tell it; None where they do not, or another story."""
    tried = islice(_lines(captured), TRIED)
    lines = next((each for each in tried if _repeats(each, captured, inquest)), None)
    if lines is None:
        return None
    batch = None if lacks(captured) else Part.known(captured).batch
    step = Repeatable(lines.run, lines.snapshot, batch, packs=False)
    told = inquest.hold(symptom, finding, step)
    if inquest.found is None:
        return None
    said = Evidence("the loop's own lines, run again", str(lines.passage))
    none = Evidence(
        "no capsule", "it could not hold the loop's own lines; `watch.step(fn)` has one"
    )
    return replace(told, evidence=(*told.evidence, said, none))


def _lines(captured: Captured) -> Iterator[OwnLines]:
    """From each of the step's first calls before the backward pass, the first of them first."""
    marks = captured.marks
    several = distributed.is_available() and distributed.is_initialized()
    if marks.end is None or (several and distributed.get_world_size() > 1):
        return
    present = {(id(f), f.f_code): f for f in users_frames(sys._getframe(1))}
    for mark in marks.begins:
        began = {(at, code): line for at, code, line in mark.lines}
        both = ((at, code) for at, code, _ in marks.end.lines)
        frame = next((key for key in both if key in began and key in present), None)
        if frame is None or mark.snapshot is None:
            continue
        ends = next(line for at, code, line in marks.end.lines if (at, code) == frame)
        for found in passages(frame[1], began[frame], ends):
            yield OwnLines(found, _names(present[frame], found), mark.snapshot)


def _names(frame: FrameType, found: Passage) -> Mapping[str, Any]:
    """Those that the frame sees, but for results of the lines themselves from their first run."""
    names = {**frame.f_globals, **frame.f_locals}
    return {k: v for k, v in names.items() if k not in found.sets or not _is_result(v)}


def _is_result(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.grad_fn is not None or not is_finite(value))


def _repeats(lines: OwnLines, captured: Captured, inquest: Inquest) -> bool:
    """Whether they come to the same number, and to something that is not finite."""
    root = captured.marks.root
    try:
        again = replay(lines.run, inquest.model, lines.snapshot, optimizers=[inquest.optimizer])
    except Exception:  # what they need is gone, or they would have stepped an optimizer
        return False
    return root is not None and bool(again.symptoms()) and _same(again, root)


def _same(again: Replayed, root: Tensor) -> bool:
    loss = again.loss.reshape(root.shape)
    return bool(torch.isclose(loss, root, rtol=0.0, atol=0.0, equal_nan=True))


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
