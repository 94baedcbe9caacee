"""`whynan hunt`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from nan_watch.autopsy.command import autopsy
from nan_watch.bench.command import bench
from nan_watch.capsule.command import replay, shrink
from probes.command import Address, Device, Out, Seed, Shares, finish, prepare, share_cores


class OnPoison(StrEnum):
    """What to do with a step that is not finite."""

    RAISE = "raise"
    SKIP = "skip"
    ALLOW = "allow"


Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Steps to take at most; by default one pass over the batches, but not under 100 "
        "nor over 1,000.",
        show_default=False,
    ),
]
Poison = Annotated[
    OnPoison,
    typer.Option(help="Stop at the first finding, drop such steps and go on, or let them write."),
]


def hunt(
    subject: Address,
    steps: Steps = None,
    on_poison: Poison = OnPoison.RAISE,
    out: Out = None,
    seed: Seed = 0,
    device: Device = None,
    jobs: Shares = 1,
) -> None:
    """Run a subject until something is not finite; say at which step, where and which way."""
    from nan_watch import hunt as hunting
    from nan_watch.causes import RULES as CAUSES
    from nan_watch.rules import RULES as HEALTH
    from probes.finding import judge, limits
    from probes.first_step import check_first_step
    from probes.progress import progress
    from probes.record import Recorder, new_folder
    from probes.run import Run
    from reports import render

    share_cores(jobs)
    ready = prepare(subject, seed, device)
    check_first_step(ready)
    home = next((str(parameter.device) for parameter in ready.model.parameters()), None)
    settings = {"part": "hunt", "subject": subject, "steps": steps, "on_poison": on_poison.value}
    recorder = Recorder(
        new_folder(out),
        seed=seed,
        device=home,
        settings=settings,
        limits=limits((*CAUSES, *HEALTH)),
    )
    with progress() as shown:
        bar = shown.add_task("hunt", total=steps, said="")

        def say(step: int, total: int, loss: float | None) -> None:
            said = "" if loss is None else f"loss {loss:.4g}"
            shown.update(bar, completed=step, total=total, said=said)

        found = hunting.hunt(ready, steps, recorder, on_poison=on_poison.value, say=say)
    judgement = found.judgement + judge(HEALTH, Run(recorder.folder))
    recorder.close(judgement, complete=not found.interrupted)
    ended = "ended by Ctrl-C" if found.interrupted else "ended"
    loss = "" if found.loss is None else f", loss {found.loss:.4g}"
    print(f"hunt {ended} after {found.steps} steps{loss}")
    finish(recorder.folder, judgement, render(recorder.folder))


COMMANDS: tuple[Callable[..., None], ...] = (hunt, replay, shrink, autopsy, bench)
