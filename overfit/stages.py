"""The checks, the hunt and the suites of a diagnosis, here or side by side in fresh processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from nan_watch.hunt import hunt
from overfit.asked import Asked
from overfit.bars import Bars
from overfit.child import Job
from overfit.engine import opened
from overfit.plan import Plan
from overfit.process import SideBySide
from overfit.suite import run_copy
from overfit.unlock import alone, together
from probes.checking import check, chosen, settings
from probes.copying import copy_of
from probes.finding import limits
from probes.record import Recorder
from probes.seeding import kept_random_state, seed_everything
from probes.subject import Subject


def here(subject: Subject, asked: Asked, record: Recorder, bars: Bars) -> None:
    """Checks, hunt and suites have run one after the other, each on a copy of the model.

    What the record holds as a part already is left as it is.
    """
    trial = replace(subject, model=copy_of(subject.model))
    checked_and_hunted(trial, asked, record, bars, lambda: None)
    for plans in _rounds(subject, asked, record):
        for plan in _missing(plans, record):
            tell = partial(bars.tell, plan.name, plan.steps)
            run_copy(subject, plan, record.folder / "parts" / plan.name, tell)


def _rounds(subject: Subject, asked: Asked, record: Recorder) -> Iterator[list[Plan]]:
    """What is to run at once: the suites, then interventions one by one, then the best together."""
    yield asked.plans()
    if asked.why:
        yield alone(subject, asked, record)
        yield together(asked, record)


def _missing(plans: Iterable[Plan], record: Recorder) -> list[Plan]:
    """Those that the record does not hold yet."""
    return [plan for plan in plans if not (record.folder / "parts" / plan.name).exists()]


def side_by_side(
    address: str, subject: Subject, asked: Asked, record: Recorder, bars: Bars
) -> None:
    """All has run; checks and hunt here, while the first suites load in their processes.

    What the record holds as a part already is left as it is. Leaving early, by Ctrl-C too, ends
    all processes.
    """
    rounds = _rounds(subject, asked, record)

    def go_on() -> None:
        suites.start()
        bars.look(suites.all)

    def jobs(plans: Iterable[Plan]) -> list[Job]:
        parts = record.folder / "parts"
        return [
            Job(address, asked.device, each, parts / plan.name, plan)
            for plan in _missing(plans, record)
        ]

    with opened(asked.engine) as place:
        at_once = place.at_once(asked.jobs, len(asked.plans()))
        each = place.threads(at_once)
        with SideBySide(jobs(next(rounds)), at_once, place.starting(each)) as suites:
            if at_once > 1:
                go_on()
                with threads(each):
                    checked_and_hunted(subject, asked, record, bars, go_on)
            else:
                checked_and_hunted(subject, asked, record, bars, lambda: None)
            suites.wait(bars.look)
            for plans in rounds:
                suites.waiting += jobs(plans)
                suites.wait(bars.look)


def checked_and_hunted(
    subject: Subject, asked: Asked, record: Recorder, bars: Bars, meanwhile: Callable[[], None]
) -> None:
    """Checks and hunt have run, where they are asked for and the record does not hold them yet."""
    parts = record.folder / "parts"
    if asked.hunted and not (parts / "check").exists():
        checked(subject, asked, record, bars, meanwhile)
    if asked.hunted and not (parts / "hunt").exists():
        seed_everything(asked.seed)
        hunted(subject, asked, record, bars, meanwhile)


def checked(
    subject: Subject, asked: Asked, record: Recorder, bars: Bars, meanwhile: Callable[[], None]
) -> None:
    """The checks have run, all but the slow ones where it is to be quick; they are `check`.

    The subject and the random state are as they were.
    """
    checks = chosen(quick=asked.quick)
    part = record.part(
        "check",
        seed=asked.seed,
        device=record.facts["device"],
        settings=settings(record.facts["settings"].get("subject"), checks),
        limits=limits(checks),
    )

    def say(done: int, total: int, said: str) -> None:
        bars.tell("check", total, done, said or "done")
        meanwhile()

    with kept_random_state():
        part.close(check(subject, checks, say, part))


def hunted(
    subject: Subject, asked: Asked, record: Recorder, bars: Bars, meanwhile: Callable[[], None]
) -> None:
    """The hunt has run on the subject's model, and is the part `hunt`. Raises KeyboardInterrupt."""
    whose = record.facts["settings"].get("subject")
    settings = {"part": "hunt", "subject": whose, "steps": asked.hunt_steps}
    part = record.part("hunt", seed=asked.seed, device=record.facts["device"], settings=settings)

    def say(step: int, total: int, loss: float | None) -> None:
        bars.tell("hunt", total, step, "" if loss is None else f"loss {loss:.3g}")
        meanwhile()

    found = hunt(subject, asked.hunt_steps, part, say=say)
    part.close(found.judgement)
    if found.interrupted:
        raise KeyboardInterrupt


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch uses so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
