"""A whole step of a loop's own stands inside: it can be run again where it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from nan_watch.guard import PoisonedStep
from nan_watch.inquest.hold import Repeatable
from probes.layout import Layout
from probes.replay import RandomState
from probes.states.generators import of_function
from probes.subject import Batch

if TYPE_CHECKING:
    from nan_watch.watch import NanWatch


@contextmanager
def stepping(
    watch: NanWatch,
    again: Callable[[], Any],
    batch: Batch,
    layout: Layout | None = None,
    at_once: bool = False,
    until: Callable[[], Any] | None = None,
) -> Iterator[None]:
    """What stands inside is one step of the watch's loop; `again` runs it once more.

    until: runs more of it, up to the update, where `again` does not.
    Raises PoisonedStep where the step is refused, or raised because of what is not finite.
    """
    watch._before, watch._told, watch._telling.news = watch.steps, False, None
    written, own = watch._writes.expected, of_function(again)
    snapshot = watch._snapshots.take(RandomState.take(), parameters=written, more=own)
    watch._writes.begin()
    whole = Repeatable(again, snapshot, batch, layout, until=until)
    watch._exhaustions.begin(watch.steps, batch)
    watch._roots.waiting, watch._at_once = [], at_once
    try:
        with watch._replays.of(whole):
            with _explained(watch, whole), watch._sampled.looking(watch._before):
                yield
            if watch._telling.news is not None and watch.on_poison != "allow":
                watch._telling.name(watch._telling.news[1])
    finally:
        watch._at_once = False


@contextmanager
def _explained(watch: NanWatch, whole: Repeatable) -> Iterator[None]:
    """What the step raises is said in the words of its replay."""
    try:
        yield
    except PoisonedStep as refusal:
        if watch._at_once or watch._ranks.several:
            raise
        raise PoisonedStep(
            watch._telling.name(refusal.finding), str(watch.recorder.folder)
        ) from None
    except Exception as error:
        _forget_half_a_step(watch)
        with watch._replays.at_work(watch._bus):
            watch._exhaustions.note(watch.recorder, error, watch.steps, whole)
        found = watch._explain(error)
        if found is not None and watch.on_poison == "raise":
            raise PoisonedStep(found, str(watch.recorder.folder)) from error
        raise


def tried(watch: NanWatch) -> None:
    """What was seen at a point that the optimizer only tried is no part of the next step."""
    _forget_half_a_step(watch)
    watch._roots.waiting = []
    watch._replays.captured.forget()


def _forget_half_a_step(watch: NanWatch) -> None:
    """What was seen of a step that raised is no part of the next one."""
    watch._losses = []
    watch._flags.forget()
    watch._sampled.units.forget()
    watch._hooked.take(np.zeros(len(watch._hooked.waiting)), str)
