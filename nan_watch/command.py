"""`whynan hunt`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nan_watch.autopsy.command import autopsy
from nan_watch.bench.command import bench
from nan_watch.capsule.command import replay, shrink
from probes.command import Address, Device, Out, Seed, Shares, finish, prepare, share_cores
from probes.errors import RequestError

if TYPE_CHECKING:
    from types import FrameType

    from rich.progress import Progress

    from nan_watch.rerun.stop import Stop


class OnPoison(StrEnum):
    """What to do with a step that is not finite."""

    RAISE = "raise"
    SKIP = "skip"
    ALLOW = "allow"


class Tier(StrEnum):
    """What the watch looks at."""

    SENTINEL = "sentinel"
    SITES = "sites"


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
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Start from a checkpoint: .safetensors, .pt (weights only), or a folder; of one of "
        "ours, optimizer and generators go on as well.",
        show_default=False,
    ),
]
StartStep = Annotated[
    int | None,
    typer.Option(
        min=0, help="Number of the first step, whose batch comes first.", show_default=False
    ),
]
KeepEvery = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Keep weights and optimizer in RUN/kept every so many steps, to start from.",
        show_default=False,
    ),
]
Debug = Annotated[
    bool, typer.Option("--pdb", help="Stop in the debugger where the bad value is born.")
]
Looks = Annotated[
    Tier,
    typer.Option(help="Look at loss and gradients alone, or at every module's output as well."),
]


def hunt(
    subject: Address,
    steps: Steps = None,
    on_poison: Poison = OnPoison.RAISE,
    tier: Looks = Tier.SITES,
    from_: From = None,
    start_step: StartStep = None,
    keep_every: KeepEvery = None,
    pdb: Debug = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = None,
    jobs: Shares = 1,
) -> None:
    """Run a subject until something is not finite; say at which step, where and which way."""
    from nan_watch import hunt as hunting
    from nan_watch.causes import RULES as CAUSES
    from nan_watch.first_step import first_step
    from nan_watch.rules import RULES as HEALTH
    from probes.finding import judge, limits
    from probes.interrupts import acknowledged
    from probes.progress import progress
    from probes.record import Recorder, new_folder
    from probes.run import Run
    from reports import render

    if pdb and on_poison is not OnPoison.RAISE:
        raise RequestError(
            f"`--pdb` stops at the first finding, but `--on-poison {on_poison.value}` goes on: "
            "leave one of them out."
        )
    share_cores(jobs)
    ready = prepare(subject, seed, device)
    first_step(ready)
    home = next((str(parameter.device) for parameter in ready.model.parameters()), None)
    settings = {
        "part": "hunt",
        "subject": subject,
        "steps": steps,
        "on_poison": on_poison.value,
        "tier": tier.value,
        "from": None if from_ is None else str(from_),
        "start_step": start_step,
        "keep_every": keep_every,
    }
    recorder = Recorder(
        new_folder(out),
        seed=seed,
        device=home,
        settings=settings,
        limits=limits((*CAUSES, *HEALTH)),
    )
    with acknowledged(), progress() as shown, recorder.unless_refused():
        bar = shown.add_task("hunt", total=steps, said="")

        def say(step: int, total: int, loss: float | None) -> None:
            said = "" if loss is None else f"loss {loss:.4g}"
            shown.update(bar, completed=step, total=total, said=said)

        found = hunting.hunt(
            ready,
            steps,
            recorder,
            tier=tier.value,
            on_poison=on_poison.value,
            say=say,
            checkpoint=from_,
            start_step=start_step,
            keep_every=keep_every,
            stop=_debugger(shown) if pdb else None,
        )
    judgement = found.judgement + judge(HEALTH, Run(recorder.folder))
    recorder.close(judgement, complete=not found.interrupted)
    ended = "ended by Ctrl-C" if found.interrupted else "ended"
    loss = "" if found.loss is None else f", loss {found.loss:.4g}"
    if found.stopped is False:
        print("`--pdb` had no place to stop at: the replay of the step gives no bad value")
    if found.resumed is not None and not found.resumed.whole:
        print(f"started from `{found.resumed.name}`, which holds no optimizer state of ours")
    count = "1 step" if found.steps == 1 else f"{found.steps} steps"
    print(f"hunt {ended} after {count}{loss}")
    finish(recorder.folder, judgement, render(recorder.folder), interrupted=found.interrupted)


def _debugger(shown: Progress) -> Stop:
    """Opens pdb in the frame that it is handed; `c` and `q` go on to the report."""
    import pdb

    def stop(frame: FrameType, words: str) -> None:
        shown.stop()
        print(f"stopped {words}; `c` goes on to the report", flush=True)
        debugger = pdb.Pdb()
        debugger.reset()
        debugger.interaction(frame, None)
        shown.start()

    return stop


COMMANDS: tuple[Callable[..., None], ...] = (hunt, replay, shrink, autopsy, bench)
