"""`whynan diagnose` and `whynan overfit`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from overfit.plan import parse_sizes
from probes.command import Address, Device, Out, Seed

if TYPE_CHECKING:
    from overfit.asked import Asked

Sizes = Annotated[str, typer.Option(help="How many samples each suite has, with commas between.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimizer steps of a suite, at most.")]
Dropout = Annotated[bool, typer.Option("--dropout", help="Leave dropout on while training.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Hunt for 20 steps only, and evaluate every 20 steps.")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Suites side by side; as many as there are cores.", show_default=False
    ),
]


def diagnose(
    subject: Address,
    sizes: Sizes = "5,20",
    steps: Steps = 400,
    quick: Quick = False,
    dropout: Dropout = False,
    seed: Seed = 0,
    device: Device = None,
    jobs: Jobs = None,
    out: Out = None,
) -> None:
    """Say why a subject does not train: first step, NaN hunt, overfit suites, report."""
    from overfit.asked import Asked

    asked = Asked(parse_sizes(sizes), steps, seed, True, quick, dropout, device, jobs)
    _examine(subject, asked, out)


def overfit(
    subject: Address,
    sizes: Sizes = "5,20",
    steps: Steps = 400,
    dropout: Dropout = False,
    seed: Seed = 0,
    device: Device = None,
    jobs: Jobs = None,
    out: Out = None,
) -> None:
    """Train on a few samples under the watch, and say whether they were memorised."""
    from overfit.asked import Asked

    asked = Asked(parse_sizes(sizes), steps, seed, False, False, dropout, device, jobs)
    _examine(subject, asked, out)


COMMANDS: tuple[Callable[..., None], ...] = (diagnose, overfit)


def _examine(subject: str, asked: Asked, out: Path | None) -> NoReturn:
    from overfit.diagnose import examine
    from overfit.story import notes
    from probes.command import finish
    from reports import render

    run = examine(subject, asked, out)
    if not run.complete:
        print("ended by Ctrl-C: suites that were cut off are not judged")
    for note in notes(run):
        print(f"note: {note}")
    finish(run.folder, run.judgement, render(run.folder))
