"""The whole diagnosis of a subject: first step, hunt, suites, story, report."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from overfit.child import Job
from overfit.plan import Plan, check_sizes
from overfit.process import Process, SideBySide
from overfit.reread import reread
from overfit.rules import RULES
from overfit.samples import draw
from overfit.story import story
from overfit.suite import Tell, run_copy
from probes.first_step import check_first_step
from probes.record import Recorder, new_folder
from probes.run import Run
from probes.subject import Subject

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

NOT_SEEDED = (
    "the subject was handed over as an object: its weights are those it came with and do not "
    "follow the seed, and its suites ran one after the other"
)
SIZES = (5, 20)
STEPS = 400
QUICK_HUNT = 20  # steps


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be done with a subject.

    hunted: whether the hunt is part of it. quick: shorter hunt, fewer evaluations. jobs:
    processes at once; by default as many as there are cores.
    """

    sizes: tuple[int, ...] = SIZES
    steps: int = STEPS
    seed: int = 0
    hunted: bool = True
    quick: bool = False
    dropout: bool = False
    device: str | None = None
    jobs: int | None = None

    def plans(self) -> list[Plan]:
        """One plan a suite, the largest first, since it takes longest."""
        every, in_a_row = (20, 2) if self.quick else (10, 3)
        largest = max(self.sizes)
        return [
            Plan(
                size=size,
                sizes=self.sizes,
                seed=self.seed,
                steps=self.steps,
                every=every,
                in_a_row=in_a_row,
                dropout=self.dropout,
                attention=self.hunted and size == largest,
            )
            for size in sorted(self.sizes, reverse=True)
        ]


def diagnose(
    subject: Subject | str,
    *,
    sizes: tuple[int, ...] = SIZES,
    steps: int = STEPS,
    quick: bool = False,
    dropout: bool = False,
    seed: int = 0,
    device: str | None = None,
    jobs: int | None = None,
    out: Path | None = None,
) -> Run:
    """The whole diagnosis has run; its record holds `judgement`, its folder `report.html`.

    subject: an address, whose suites run side by side in fresh processes, or a Subject, whose
    suites run here one after the other on copies of its model.
    """
    sizes = check_sizes(tuple(sizes), f"sizes={sizes}")
    return examine(subject, Asked(sizes, steps, seed, True, quick, dropout, device, jobs), out)


def examine(subject: Subject | str, asked: Asked, out: Path | None = None) -> Run:
    """The subject went through what was asked, and the run folder tells of it.

    Ctrl-C ends all processes; what is done is judged and rendered, and the record is incomplete.
    Raises RequestError where the first step, a size or the folder will not do.
    """
    from reports import render

    loaded = _loaded(subject, asked)
    check_first_step(loaded)
    draw(loaded, asked.sizes, asked.seed)
    folder = new_folder(out)
    recorder = Recorder(
        folder,
        seed=asked.seed,
        device=_device(loaded),
        settings=_settings(subject, asked),
        limits={rule.code: asdict(cast(Any, rule)) for rule in RULES},
    )
    try:
        _moves(subject, loaded, asked, folder)
        recorder.close(story(folder))
    except KeyboardInterrupt:
        recorder.note(interrupted=True)
        recorder.findings(story(folder))
    render(folder)
    return Run(folder)


def _loaded(subject: Subject | str, asked: Asked) -> Subject:
    from probes.command import on_device, prepare

    if isinstance(subject, str):
        return reread(prepare(subject, asked.seed, asked.device))
    own = replace(reread(subject), model=copy.deepcopy(subject.model))
    return own if asked.device is None else on_device(own, asked.device)


def _device(subject: Subject) -> str:
    return str(next((each.device for each in subject.model.parameters()), "cpu"))


def _settings(subject: Subject | str, asked: Asked) -> dict[str, Any]:
    if isinstance(subject, str):
        return {"part": "diagnosis", "subject": subject, **asdict(asked)}
    return {"part": "diagnosis", **asdict(asked), "notes": [NOT_SEEDED]}


def _moves(subject: Subject | str, loaded: Subject, asked: Asked, folder: Path) -> None:
    if isinstance(subject, str):
        _side_by_side(subject, loaded, asked, folder)
        return
    from probes.progress import progress

    print(f"whynan: {NOT_SEEDED}", file=sys.stderr)
    if asked.hunted:
        _hunt(loaded, asked, folder)
    for plan in asked.plans():
        with progress() as bars:
            task = bars.add_task(plan.name, total=plan.steps, said="")
            run_copy(loaded, plan, folder / "parts" / plan.name, _teller(bars, task))


def _teller(bars: Progress, task: TaskID) -> Tell:
    def tell(step: int, words: str) -> None:
        if words:
            bars.update(task, completed=step, said=words)
        else:
            bars.update(task, completed=step)

    return tell


def _side_by_side(address: str, loaded: Subject, asked: Asked, folder: Path) -> None:
    from probes.progress import progress

    plans = asked.plans()
    cores = os.cpu_count() or 1
    at_once = min(asked.jobs or cores, len(plans))
    threads = max(1, cores // at_once)
    jobs = [
        Job(address, asked.device, threads, folder / "parts" / plan.name, plan) for plan in plans
    ]
    with SideBySide(jobs, at_once) as suites:
        if at_once > 1:
            suites.start()  # they load while the hunt is on
        if asked.hunted:
            with _threads(threads):
                _hunt(loaded, asked, folder)
        with progress() as bars:
            suites.wait(Bars(bars))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Bars:
    """One progress bar a process."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, processes: Sequence[Process]) -> None:
        """The bars stand where the processes are."""
        for each in processes:
            plan = each.job.plan
            if plan.name not in self.tasks:
                self.tasks[plan.name] = self.bars.add_task(plan.name, total=plan.steps, said="")
            self.bars.update(self.tasks[plan.name], completed=each.step, said=each.words)


def _hunt(subject: Subject, asked: Asked, folder: Path) -> None:
    pass
