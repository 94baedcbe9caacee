"""One experiment of a notebook: hunt, checks, suites and course, each on a fresh subject."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nan_watch.causes import RULES as CAUSES
from nan_watch.first_step import first_step
from nan_watch.hunt import hunt
from nan_watch.rules import RULES as HEALTH
from overfit.asked import QUICK_HUNT
from overfit.course import run_course
from overfit.notebook import Build, Entry
from overfit.plan import Plan
from overfit.rules import RULES
from overfit.story import story
from overfit.suite import run_suite
from probes.checking import check, chosen
from probes.command import on_device
from probes.errors import RequestError
from probes.finding import Rule, limits
from probes.raised import asked_of_user
from probes.record import Recorder
from probes.reread import reread
from probes.seeding import seed_everything
from probes.subject import Subject

LOOKS = 6
"""Evaluations of a suite, about; with one sample a step an evaluation is dearer than steps."""


@dataclass(frozen=True, slots=True)
class Tried:
    """How an entry is to be run: what quick leaves out, the first seed, and the time since when.

    clock: seconds since the process started. device: where model and batches are moved; None: none.
    """

    quick: bool
    seed: int
    clock: Callable[[], float]
    device: str | None = None


def asked_of(entry: Entry, quick: bool, seed: int) -> dict[str, Any]:
    """What a run of the entry is asked for: it is complete only if this is still the same."""
    return {
        "part": "experiment",
        "name": entry.name,
        "set": dict(entry.settings),
        "suites": {str(size): steps for size, steps in entry.suites.items()},
        "seeds": entry.seeds_of(quick),
        "course": None if entry.course is None else [entry.course.what, entry.course.steps],
        "quick": quick,
        "first_seed": seed,
    }


def run_entry(entry: Entry, tried: Tried, folder: Path, tell: Callable[[int, str], None]) -> None:
    """The entry's run folder holds its moves as parts, the story of them, and when each ended.

    Raises RequestError where its subject will not do; the record then says why.
    """
    asked = asked_of(entry, tried.quick, tried.seed)
    rules: tuple[Rule[Any], ...] = (*CAUSES, *HEALTH, *RULES, *chosen(quick=tried.quick))
    record = Recorder(folder, seed=tried.seed, settings=asked, limits=limits(rules))
    try:
        _Moves(entry, tried, record, tell).run()
    except RequestError as error:
        record.note(wrong=str(error))
        record.close(story(folder), complete=False)
        raise
    record.close(story(folder))
    record.note(seconds=tried.clock())


@dataclass
class _Moves:
    """The moves of an entry; `times` holds when each part ended, and each check."""

    entry: Entry
    tried: Tried
    record: Recorder
    tell: Callable[[int, str], None]
    times: dict[str, dict[str, float]] = field(default_factory=dict)
    done: int = 0

    def run(self) -> None:
        """Every move is made."""
        looked_at = self.entry.together or self.entry.subject
        self._said("first step")
        first_step(self._fresh(looked_at))
        self._hunt(self._fresh(looked_at))  # first: what is not finite it tells in a step or two
        self._checks(self._fresh(looked_at))
        for size, steps, seed in suites_of(self.entry, self.tried.quick, self.tried.seed):
            self._suite(size, steps, seed)
        if self.entry.course is not None:
            self._course()

    def _fresh(self, build: Build, seed: int | None = None) -> Subject:
        """The subject, built after seeding."""
        seed_everything(self.tried.seed if seed is None else seed)
        with asked_of_user(f"`subject` of the experiment `{self.entry.name}`"):
            made = build()
        if not isinstance(made, Subject):
            raise RequestError(
                f"`subject` of the experiment `{self.entry.name}` returned a "
                f"{type(made).__name__}, but a Subject was expected: return "
                "`Subject(model, batches, loss, optimizer)`."
            )
        own = reread(made)
        return own if self.tried.device is None else on_device(own, self.tried.device)

    def _said(self, words: str, more: int = 0) -> None:
        self.done += more
        self.tell(self.done, words)

    def _ended(self, part: str, codes: Mapping[str, float] | None = None) -> None:
        """It is on disk when the part ended, and when the checks of these codes did."""
        self.times[part] = {"": self.tried.clock(), **(codes or {})}
        self.record.note(times=self.times)

    def _part(self, name: str, seed: int | None = None, **settings: object) -> Recorder:
        return self.record.part(
            name, seed=self.tried.seed if seed is None else seed, settings=settings
        )

    def _checks(self, subject: Subject) -> None:
        checks, codes = chosen(quick=self.tried.quick), dict[str, float]()
        recorder = self._part("check", part="check", checks=[each.code for each in checks])

        def say(done: int, total: int, rule: str) -> None:
            if done:
                codes[checks[done - 1].code] = self.tried.clock()
            self._said(f"check {rule}" if rule else "checked")

        recorder.close(check(subject, checks, say, recorder))
        self._ended("check", codes)

    def _hunt(self, subject: Subject) -> None:
        steps = QUICK_HUNT if self.tried.quick else None
        recorder = self._part("hunt", part="hunt", steps=steps)

        def say(step: int, total: int, loss: float | None) -> None:
            self._said(f"hunt, step {step} of {total}")

        found = hunt(subject, steps, recorder, say=say)
        recorder.close(found.judgement)
        if found.interrupted:
            raise KeyboardInterrupt
        self._ended("hunt")

    def _suite(self, size: int, steps: int, seed: int) -> None:
        plan = Plan(
            size=size,
            sizes=tuple(sorted(self.entry.suites)),
            seed=seed,
            steps=steps,
            every=max(20 if self.tried.quick else 10, steps // LOOKS),
            in_a_row=2 if self.tried.quick else 3,
        )
        before = self.done
        subject = self._fresh(self.entry.subject, seed)

        def say(step: int, words: str) -> None:
            self._said(f"{size} samples, seed {seed} {words}", before + step - self.done)

        run_suite(subject, plan, self.record.folder / "parts" / plan.name, say)
        self._said("", before + steps - self.done)
        self._ended(plan.name)

    def _course(self) -> None:
        course = self.entry.course
        assert course is not None
        before = self.done
        subject = self._fresh(course.subject)

        def say(step: int, words: str) -> None:
            self._said(f"{course.what} {words}", before + step - self.done)

        recorder = self._part("course", part="course", what=course.what, steps=course.steps)
        run_course(subject, course, recorder, say)
        self._ended("course")


def suites_of(entry: Entry, quick: bool, seed: int) -> list[tuple[int, int, int]]:
    """Size, steps and seed of each suite: all with the first seed, then the smallest alone."""
    sizes = sorted(entry.suites)
    more = range(seed + 1, seed + entry.seeds_of(quick))
    pairs = [*((size, seed) for size in sizes), *((sizes[0], other) for other in more)]
    return [(size, entry.suites[size], each) for size, each in pairs]


def steps_of(entry: Entry, quick: bool) -> int:
    """How many steps its progress counts."""
    course = 0 if entry.course is None else entry.course.steps
    return sum(steps for _, steps, _ in suites_of(entry, quick, 0)) + course
