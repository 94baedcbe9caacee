"""The smallest set of a capsule's samples that still fails, by delta debugging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor

from nan_watch.capsule.again import on_its_device, restored
from nan_watch.capsule.content import Capsule, ModelCall
from nan_watch.inquest.captured import Call
from nan_watch.inquest.models_part import Part
from nan_watch.origin.find import Origin, find_origin
from probes.batch import sample_count, take
from probes.errors import RequestError
from probes.loop import Loop
from probes.replay import Snapshot, replay
from probes.subject import Batch, Subject

Say = Callable[[int, int], None]
"""Is told after every try: samples that are left, tries so far."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A smaller capsule that fails the same way. tries: how often the step ran for it."""

    capsule: Capsule
    tries: int
    interrupted: bool = False


def shrink(capsule: Capsule, subject: Subject, say: Say | None = None) -> Shrunk:
    """The capsule with the fewest samples that still fail: none of them can be left out.

    A set fails where the same operator at the same line and site gives the first value that is
    not finite. To name it takes long, so that a first search asks only whether loss and
    gradients fail, and a second one names each set, where what the first one found is another
    failure. Ctrl-C ends the search with the smallest set so far.
    Raises RequestError where the step does not fail here, or cannot be cut into samples.
    """
    trial = _Trial.of(capsule, subject)
    count = sample_count(trial.batch, subject.layout)
    if count is None:
        raise RequestError(
            "`batch` of the capsule cannot be cut into samples: its tensors do not agree on the "
            "length of their first axis; declare the axes by `Layout(axes={KEY: ('sample', ...)})`."
        )
    search = _Search(trial, tuple(range(count)), say)
    interrupted = False
    try:
        search.run()
        if not trial.fails(search.left, named=True):
            search.left, search.named = tuple(range(count)), True
            search.run()
    except KeyboardInterrupt:
        interrupted = True
    before = capsule.samples or tuple(range(count))
    smaller = replace(trial.smaller(search.left), samples=tuple(before[i] for i in search.left))
    return Shrunk(smaller, search.tries, interrupted)


class _Search:
    """`left` is the smallest set so far that fails; Zeller's ddmin, by complements.

    named: whether the same operator must fail, and not only something.
    """

    def __init__(self, trial: _Trial, left: tuple[int, ...], say: Say | None) -> None:
        self.trial, self.left, self.say = trial, left, say
        self.tries, self.named = 0, False

    def run(self) -> None:
        """No sample can be left out of `left`, and no half of it fails by itself."""
        pieces = 2
        while len(self.left) > 1:
            cut = _cut(self.left, pieces)
            rests = [tuple(i for i in self.left if i not in set(piece)) for piece in cut]
            found = next((each for each in [*cut, *rests] if self._fails(each)), None)
            if found is not None:
                pieces = max(2, pieces - 1) if found in rests and pieces > 2 else 2
                self.left = found
            elif pieces >= len(self.left):
                return
            else:
                pieces = min(len(self.left), 2 * pieces)

    def _fails(self, samples: tuple[int, ...]) -> bool:
        self.tries += 1
        smaller = 0 < len(samples) < len(self.left)
        fails = smaller and self.trial.fails(samples, self.named)
        if self.say is not None:
            self.say(len(samples) if fails else len(self.left), self.tries)
        return fails


def _cut(samples: tuple[int, ...], pieces: int) -> list[tuple[int, ...]]:
    """So many pieces of nearly the same size."""
    ends = [len(samples) * i // pieces for i in range(pieces + 1)]
    return [samples[a:b] for a, b in pairwise(ends) if a < b]


@dataclass(frozen=True, slots=True)
class _Trial:
    """The capsule's step, ready to be run on any of its samples."""

    capsule: Capsule
    subject: Subject
    loop: Loop
    batch: Batch
    symptoms: frozenset[str]
    whole: Origin

    @classmethod
    def of(cls, capsule: Capsule, subject: Subject) -> _Trial:
        loop = restored(capsule, subject)
        batch = on_its_device(capsule, _given(capsule), loop.model)
        step = _Step.of(capsule, subject, loop, batch)
        origin = step.origin() if step.symptoms() else None
        if origin is None:
            raise RequestError(
                "`capsule` does not fail here: its step is finite on this device, or its loss "
                "code is not in it; run `whynan replay` on the device that it names."
            )
        return cls(capsule, subject, loop, batch, step.symptoms(), origin)

    def fails(self, samples: Sequence[int], named: bool) -> bool:
        """Whether these samples fail as all of them do; a step that raises is no failure."""
        batch = take(self.batch, samples, self.subject.layout)
        try:
            step = _Step.of(self.capsule, self.subject, self.loop, batch)
            if step.symptoms() != self.symptoms:
                return False
            origin = step.origin() if named else None
        except Exception:  # such as a batch norm over one sample
            return False
        return not named or (origin is not None and _way(origin) == _way(self.whole))

    def smaller(self, samples: Sequence[int]) -> Capsule:
        """The capsule of these samples alone."""
        given = take(_given(self.capsule), samples, self.subject.layout)
        if not self.capsule.calls:
            return replace(self.capsule, batch=given)
        return replace(self.capsule, calls=tuple(_calls(self.capsule, given)))


def _way(origin: Origin) -> tuple[Any, ...]:
    return origin.op, origin.node, origin.phase, origin.site, origin.source


def _given(capsule: Capsule) -> Batch:
    """What can be cut into samples: the batch, or the arguments and gradients of the calls."""
    if not capsule.calls:
        return capsule.batch
    return [
        {"args": list(each.args), "kwargs": dict(each.kwargs), "grads": dict(each.grads)}
        for each in capsule.calls
    ]


def _calls(capsule: Capsule, given: Batch) -> list[ModelCall]:
    pairs = zip(capsule.calls, given, strict=True)
    return [replace(call, **cut) for call, cut in pairs]


@dataclass(frozen=True, slots=True)
class _Step:
    """The step on some samples, with what it starts from."""

    loop: Loop
    subject: Subject
    run: Callable[[], Tensor]
    batch: Batch
    snapshot: Snapshot

    @classmethod
    def of(cls, capsule: Capsule, subject: Subject, loop: Loop, batch: Batch) -> _Step:
        capsule.start.state.restore(loop.model)
        snapshot = Snapshot.take(loop.model)
        if not capsule.calls:
            return cls(loop, subject, partial(loop.step, batch), batch, snapshot)
        part = Part.of(loop.model, [_ready(loop, each) for each in _calls(capsule, batch)])
        return cls(loop, subject, part.run, part.batch, snapshot)

    def symptoms(self) -> frozenset[str]:
        """Whether the loss, and whether gradients are not finite: empty where both are."""
        held_back = [self.loop.optimizer]
        found = replay(self.run, self.loop.model, self.snapshot, optimizers=held_back).symptoms()
        return frozenset("loss" if name == "<loss>" else "gradients" for name in found)

    def origin(self) -> Origin | None:
        """Where it fails, named."""
        return find_origin(
            self.loop.model,
            self.run,
            self.snapshot,
            layout=self.subject.layout,
            batch=self.batch,
            optimizers=[self.loop.optimizer],
        )


def _ready(loop: Loop, kept: ModelCall) -> Call:
    kept.state.restore(loop.model)
    return kept.call(loop.model)
