"""`whynan diagnose`, `whynan overfit` and `whynan notebook`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from overfit.plan import parse_sizes
from probes.command import Address, Device, Out, Seed

if TYPE_CHECKING:
    from overfit.asked import Asked


class Engine(StrEnum):
    """What runs the suites or experiments."""

    LOCAL = "local"
    RAY = "ray"


Sizes = Annotated[str, typer.Option(help="How many samples each suite has, with commas between.")]
Steps = Annotated[
    int,
    typer.Option(
        min=1,
        help="Optimizer steps of a suite, at most; as many as the default again where the samples "
        "are nearly memorised by then.",
    ),
]
Dropout = Annotated[bool, typer.Option("--dropout", help="Leave dropout on while training.")]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="Hunt for 20 steps only, evaluate every 20 steps, one seed, no blind training.",
    ),
]
Why = Annotated[bool, typer.Option("--why", help="Try interventions on what was not memorised.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="How many suites run at the same time; by default as many as there are cores.",
        show_default=False,
    ),
]
AtOnce = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help="How many experiments run at the same time; by default as many as there are cores.",
        show_default=False,
    ),
]
Where = Annotated[
    Engine, typer.Option("--engine", help="Run them on this machine, or on a Ray cluster.")
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="Run these experiments alone.", metavar="NAME"),
]
Names = Annotated[  # what follows the first name after `--only`
    list[str] | None,
    typer.Argument(metavar="NAME", help="As after `--only`.", show_default=False),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the run in --out: what is complete there is kept, the rest runs again.",
    ),
]


def diagnose(
    subject: Address,
    sizes: Sizes = "5,20",
    steps: Steps = 400,
    quick: Quick = False,
    why: Why = False,
    dropout: Dropout = False,
    seed: Seed = 0,
    device: Device = None,
    jobs: Jobs = None,
    engine: Where = Engine.LOCAL,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Say why a subject does not train: first step, NaN hunt, overfit suites, report."""
    from overfit.asked import Asked

    asked = Asked(
        parse_sizes(sizes), steps, seed, True, quick, dropout, device, jobs, why, engine.value
    )
    _examine(subject, asked, out, resume)


def overfit(
    subject: Address,
    sizes: Sizes = "5,20",
    steps: Steps = 400,
    dropout: Dropout = False,
    seed: Seed = 0,
    device: Device = None,
    jobs: Jobs = None,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Train on a few samples under the watch, and say whether they were memorised."""
    from overfit.asked import Asked

    asked = Asked(parse_sizes(sizes), steps, seed, False, False, dropout, device, jobs)
    _examine(subject, asked, out, resume)


def notebook(
    address: Annotated[
        str, typer.Argument(metavar="NOTEBOOK", help="FILE.py:NAME or package.module:NAME.")
    ],
    names: Names = None,
    only: Only = None,
    quick: Quick = False,
    seed: Seed = 0,
    device: Device = None,
    jobs: AtOnce = None,
    engine: Where = Engine.LOCAL,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Run a list of named experiments side by side, and write one page of what they came to."""
    from overfit.run_notebook import run_notebook
    from overfit.table import say_found, say_results
    from probes.command import done
    from probes.interrupts import INTERRUPTED, acknowledged
    from reports import render

    chosen = [name for words in (only or []) + (names or []) for name in words.split(",") if name]
    with acknowledged():
        ran = run_notebook(
            address,
            chosen,
            quick=quick,
            seed=seed,
            jobs=jobs,
            out=out,
            resume=resume,
            engine=engine.value,
            device=device,
        )
    if ran.found:
        say_found(ran.found)
        print()
    say_results(ran.results)
    if ran.interrupted:
        print(f"ended by Ctrl-C: `--out {ran.folder} --resume` goes on with it")
    print(f"report: {render(ran.folder)}")
    done(ran.folder, INTERRUPTED if ran.interrupted else 0)


COMMANDS: tuple[Callable[..., None], ...] = (diagnose, overfit, notebook)


def _examine(subject: str, asked: Asked, out: Path | None, resume: bool) -> NoReturn:
    from overfit.diagnose import examine
    from overfit.story import notes
    from probes.command import finish
    from probes.interrupts import acknowledged
    from probes.progress import announce
    from reports import render
    from reports.reading.standing import standing

    with acknowledged():
        run = examine(subject, asked, out, resume)
    if not run.complete:
        print("ended by Ctrl-C: what was cut off is not judged", *standing(run).words, sep="\n")
    for note in notes(run):
        print(f"note: {note}")
    announce("writing the report")
    finish(run.folder, run.judgement, render(run.folder), interrupted=not run.complete)
