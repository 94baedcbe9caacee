"""Runs a subject's own loop under the watch until something is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from nan_watch.capsule.start import Start
from nan_watch.guard import PoisonedStep
from nan_watch.rerun.kept import Kept
from nan_watch.rerun.order import from_batch, schedule_at
from nan_watch.rerun.resume import Resumed, resume
from nan_watch.rerun.settle import settle
from nan_watch.rerun.stop import Stop, stop_at_birth
from nan_watch.watch import NanWatch, OnPoison, Tier
from probes.finding import Judgement
from probes.loop import Loop
from probes.raised import asked_of_user, is_out_of_memory
from probes.record import Recorder
from probes.replay import Snapshot
from probes.subject import Batch, Subject, length_of

LEAST, MOST = 100, 1000  # steps, where the number is not asked for

Say = Callable[[int, int, float | None], None]
"""Is told after every step: steps taken, steps to take, the newest loss that is known."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """What a hunt came to.

    folder: its run folder. steps: how many it took. loss: the last that is known.
    interrupted: whether the user ended it by Ctrl-C. resumed: what it started from, where that
    was a checkpoint. stopped: whether a debugger was stopped in; None where none was asked for.
    """

    folder: Path
    judgement: Judgement
    steps: int
    loss: float | None
    interrupted: bool = False
    resumed: Resumed | None = None
    stopped: bool | None = None


def default_steps(batches: Iterable[Batch]) -> int:
    """One pass over the batches, but not under 100 steps nor over 1,000; 100 where none can say."""
    return min(MOST, max(LEAST, length_of(batches) or 0))


@asked_of_user("a step of the hunt")
def hunt(
    subject: Subject,
    steps: int | None = None,
    out: Path | Recorder | None = None,
    *,
    tier: Tier = "sites",
    on_poison: OnPoison = "raise",
    say: Say | None = None,
    checkpoint: Path | None = None,
    start_step: int | None = None,
    keep_every: int | None = None,
    stop: Stop | None = None,
) -> Hunt:
    """The subject's model has been trained until something was not finite, or for so many steps.

    The model is changed. Batches are read again from the start when they end. Under `skip` and
    `allow` the hunt goes on after a finding. out: as NanWatch takes it; a Recorder is left open.
    Ctrl-C ends the hunt and keeps what there is.

    checkpoint: what to start from. start_step: the number of the first step, which has the batch
    and the learning rate of that step; by default 0, or what a checkpoint of ours says.
    keep_every: what a step starts from is kept in `kept/` every so many steps, the newest three.
    stop: called with the user's frame where the step that was refused gave its first bad value.

    Raises RequestError where the step itself raises, or the checkpoint does not fit.
    """
    total = default_steps(subject.batches) if steps is None else steps
    loop = Loop(subject)
    resumed = None if checkpoint is None else resume(checkpoint, loop.model, loop.optimizer)
    first = _first(loop, resumed, start_step)
    watch = NanWatch(loop.model, loop.optimizer, tier, on_poison, out, start=first)
    work = _Work(loop, watch, total, say, keep_every, debugged=stop is not None)
    interrupted, stopped = False, None
    start = Start.of(loop.model, loop.optimizer, Snapshot.take(loop.model), first)
    try:
        with watch:
            try:
                work.run()
            except PoisonedStep as refusal:
                found = settle(refusal.finding, subject, start, watch.recorder.folder)
                watch.retell(refusal.finding, found)
                raise
    except PoisonedStep:
        stopped = None if stop is None else work.stop(stop)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise  # it is a finding of the rules of health, which read the record
    except KeyboardInterrupt:
        interrupted = True
        if watch.recorder is out:
            watch.recorder.note(ended_by="KeyboardInterrupt")
    taken, folder = watch.steps - first, watch.recorder.folder
    return Hunt(folder, watch.judgement, taken, watch.loss, interrupted, resumed, stopped)


@dataclass(slots=True)
class _Work:
    """The steps of a hunt. debugged: the step at work can be replayed up to its birth."""

    loop: Loop
    watch: NanWatch
    total: int
    say: Say | None
    keep_every: int | None
    debugged: bool
    newest: tuple[Batch, Snapshot] | None = None

    def run(self) -> None:
        """So many steps were taken. Raises PoisonedStep."""
        first, model = self.watch.steps, self.loop.model
        subject = self.loop.subject
        folder, every = self.watch.recorder.folder, self.keep_every
        kept = Kept(folder, model, self.loop.optimizer, every) if every else None
        for index, batch in islice(from_batch(subject.batches, first), self.total):
            self.watch.batch = index
            if kept is not None:
                kept.before(self.watch.steps)
            if self.debugged:
                self.newest = batch, Snapshot.take(model)
            step = partial(self.loop.step, batch, self.watch)
            self.watch.step(step, batch=batch, layout=subject.layout)
            if self.say is not None:
                self.say(self.watch.steps - first, self.total, self.watch.loss)

    def stop(self, stop: Stop) -> bool:
        """The user has looked at the newest step's birth; false where its replay has none."""
        if self.newest is None:
            return False
        batch, snapshot = self.newest
        step, held_back = partial(self.loop.step, batch), [self.loop.optimizer]
        model = self.loop.model
        return stop_at_birth(model, step, snapshot, stop, batch=batch, optimizers=held_back)


def _first(loop: Loop, resumed: Resumed | None, start_step: int | None) -> int:
    """The number of the first step; the schedule stands there, at the rates of the checkpoint."""
    known = resumed.step if resumed is not None else None
    first = start_step if start_step is not None else known or 0
    groups = loop.optimizer.param_groups
    rates = [group["lr"] for group in groups]
    schedule_at(loop.schedule, first)
    if resumed is not None and resumed.whole:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
    return first
