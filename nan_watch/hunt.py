"""Runs a subject's own loop under the watch until something is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from nan_watch.guard import PoisonedStep
from nan_watch.watch import NanWatch, OnPoison, Tier
from probes.finding import Judgement
from probes.loop import Loop
from probes.raised import asked_of_user
from probes.record import Recorder
from probes.subject import Batch, Subject

LEAST, MOST = 100, 1000  # steps, where the number is not asked for

Say = Callable[[int, int, float | None], None]
"""Is told after every step: steps taken, steps to take, the newest loss that is known."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """What a hunt came to.

    folder: its run folder. steps: how many it took. loss: the last that is known.
    interrupted: whether the user ended it by Ctrl-C.
    """

    folder: Path
    judgement: Judgement
    steps: int
    loss: float | None
    interrupted: bool = False


def default_steps(batches: Iterable[Batch]) -> int:
    """One pass over the batches, but not under 100 steps nor over 1,000; 100 where none can say."""
    return min(MOST, max(LEAST, len(batches))) if isinstance(batches, Sized) else LEAST


@asked_of_user("a step of the hunt")
def hunt(
    subject: Subject,
    steps: int | None = None,
    out: Path | Recorder | None = None,
    *,
    tier: Tier = "sites",
    on_poison: OnPoison = "raise",
    say: Say | None = None,
) -> Hunt:
    """The subject's model has been trained until something was not finite, or for so many steps.

    The model is changed. Batches are read again from the start when they end. Under `skip` and
    `allow` the hunt goes on after a finding. out: as NanWatch takes it; a Recorder is left open.
    Ctrl-C ends the hunt and keeps what there is. Raises RequestError where the step itself raises.
    """
    total = default_steps(subject.batches) if steps is None else steps
    loop = Loop(subject)
    interrupted = False
    watch = NanWatch(loop.model, loop.optimizer, tier, on_poison, out)
    try:
        with watch:
            for index, batch in islice(_again_and_again(subject.batches), total):
                watch.batch = index
                step = partial(loop.step, batch, watch)
                watch.step(step, batch=batch, layout=subject.layout)
                if say is not None:
                    say(watch.steps, total, watch.loss)
    except PoisonedStep:
        pass
    except KeyboardInterrupt:
        interrupted = True
        if watch.recorder is out:
            watch.recorder.note(ended_by="KeyboardInterrupt")
    return Hunt(watch.recorder.folder, watch.judgement, watch.steps, watch.loss, interrupted)


def _again_and_again(batches: Iterable[Batch]) -> Iterator[tuple[int, Batch]]:
    """Index and batch, pass after pass; ends with a pass that has none."""
    index = 0
    while index >= 0:
        index = -1
        for index, batch in enumerate(batches):
            yield index, batch
