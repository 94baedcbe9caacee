"""The whole diagnosis of a subject: first step, checks, hunt, suites, story, report."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nan_watch.causes import RULES as CAUSES
from nan_watch.first_step import first_step
from nan_watch.rules import RULES as HEALTH
from overfit.asked import SIZES, STEPS, Asked
from overfit.bars import Bars
from overfit.heads import Heads
from overfit.plan import check_sizes
from overfit.resume import open_folder
from overfit.rules import RULES
from overfit.samples import Samples, draw
from overfit.stages import here, side_by_side
from overfit.story import story
from probes.copying import copy_of
from probes.finding import limits
from probes.raised import asked_of_user
from probes.record import Recorder
from probes.reread import reread
from probes.run import Run
from probes.seeding import kept_random_state, seed_everything
from probes.subject import Subject

NOT_SEEDED = (
    "the subject was handed over as an object: its weights are those it came with and do not "
    "follow the seed, and its suites run one after the other"
)

MAY_CHANGE = ("jobs", "engine", "notes")  # settings, where a run is gone on with


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
    why: bool = False,
    engine: str = "local",
    out: Path | None = None,
    resume: bool = False,
) -> Run:
    """The whole diagnosis has run; its record holds `judgement`, its folder `report.html`.

    subject: an address, whose suites run side by side in fresh processes, or a Subject, whose
    suites run here one after the other on copies of its model. why: whether interventions are
    tried on what was not memorised. engine: what runs the suites of an address, `local` or `ray`.
    resume: the run in `out` is gone on with, as `open_folder`
    does.
    Raises RequestError where the first step, a size or the folder will not do.
    """
    asked = Asked(
        sizes=check_sizes(tuple(sizes), f"sizes={sizes}"),
        steps=steps,
        seed=seed,
        quick=quick,
        dropout=dropout,
        device=device,
        jobs=jobs,
        why=why,
        engine=engine,
    )
    from reports import render

    run = examine(subject, asked, out, resume)
    render(run.folder)
    return run


def examine(
    subject: Subject | str, asked: Asked, out: Path | None = None, resume: bool = False
) -> Run:
    """The subject went through what was asked; the run folder tells of it, without a page yet.

    Ctrl-C ends all processes; what is done is judged, and the record says that it is incomplete.
    When resuming, the parts that are complete in `out` are kept, and all others run again.
    Raises RequestError where the first step, a metric, a size or the folder will not do.
    """
    loaded = _loaded(subject, asked)
    first = first_step(loaded)
    samples = draw(loaded, asked.sizes, asked.seed)[min(asked.sizes)]
    if first is not None:
        _check_metrics(loaded, samples)
    settings = _settings(subject, asked)
    record = Recorder(
        open_folder(out, resume, {k: v for k, v in settings.items() if k not in MAY_CHANGE}),
        seed=asked.seed,
        device=_device(loaded),
        settings={**settings, "first_step": first and asdict(first)},
        limits=limits((*CAUSES, *HEALTH, *RULES)),
    )
    try:
        _moves(subject, loaded, asked, record)
        record.close(story(record.folder))
    except KeyboardInterrupt:
        there = {name for name, _ in Run(record.folder).parts}
        record.note(interrupted=True, not_begun=[n for n in asked.names if n not in there])
        record.close(story(record.folder), complete=False)
    return Run(record.folder)


def _check_metrics(subject: Subject, samples: Samples) -> None:
    """The metrics and parts have been counted once, on a copy of the model."""
    trial = replace(subject, model=copy_of(subject.model))
    with kept_random_state(), asked_of_user("a metric, a part or `predict`"):
        Heads(trial, samples.batches).evaluate()


def _loaded(subject: Subject | str, asked: Asked) -> Subject:
    from probes.command import on_device, prepare

    if isinstance(subject, str):
        return prepare(subject, asked.seed, asked.device)
    seed_everything(asked.seed)
    own = replace(reread(subject), model=copy_of(subject.model))
    return own if asked.device is None else on_device(own, asked.device)


def _device(subject: Subject) -> str:
    return str(next((each.device for each in subject.model.parameters()), "cpu"))


def _settings(subject: Subject | str, asked: Asked) -> dict[str, Any]:
    part = "diagnosis" if asked.hunted else "overfit"
    if isinstance(subject, str):
        return {"part": part, "subject": subject, **asdict(asked)}
    return {"part": part, **asdict(asked), "notes": [NOT_SEEDED]}


def _moves(subject: Subject | str, loaded: Subject, asked: Asked, record: Recorder) -> None:
    from probes.progress import progress

    with progress() as shown:
        if isinstance(subject, str):
            side_by_side(subject, loaded, asked, record, Bars(shown))
        else:
            print(f"whynan: {NOT_SEEDED}", file=sys.stderr)
            here(loaded, asked, record, Bars(shown))
