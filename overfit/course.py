"""A training over a subject's own batches, whose next batch is looked at every so many steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice

from nan_watch import NanWatch, PoisonedStep
from nan_watch.rerun.order import from_batch
from overfit.heads import Heads
from overfit.notebook import Course
from probes.loop import Loop
from probes.record import Recorder
from probes.subject import Subject


def run_course(
    subject: Subject, course: Course, recorder: Recorder, tell: Callable[[int, str], None]
) -> None:
    """The subject's model is trained, and the recorder holds loss and accuracies on the way.

    What is looked at is the batch that the next step is taken on, in eval mode, before that step.
    A step that is not finite ends it.
    """
    loop = Loop(subject)
    with NanWatch(loop.model, loop.optimizer, out=recorder) as watch:
        try:
            batches = islice(from_batch(subject.batches, 0), course.steps)
            for step, (_, batch) in enumerate(batches):
                if step % course.every == 0:
                    tell(step, _look(loop, batch, step, recorder))
                watch.step(partial(loop.step, batch, watch), batch=batch, layout=subject.layout)
                tell(step + 1, "")
            recorder.note(ended="steps")
        except PoisonedStep as refusal:
            found = refusal.finding
            recorder.note(ended="refused", refused=found.step, said=found.message)
        finally:  # an exception or Ctrl-C leaves what was found so far
            recorder.findings(watch.judgement)
    recorder.close(watch.judgement)


def _look(loop: Loop, batch: object, step: int, recorder: Recorder) -> str:
    found = Heads(loop.subject, [batch]).evaluate()
    if found.counts:
        recorder.values(step, "metric", "hits", found.hits)
        recorder.values(step, "metric", "count", found.counts)
    return " ".join(f"{name} {found.hits[name]:g}/{found.counts[name]:g}" for name in found.counts)
