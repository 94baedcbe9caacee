"""`whynan replay` and `whynan shrink`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from probes.command import Device, Out, finish, prepare

if TYPE_CHECKING:
    from nan_watch.capsule.again import Again
    from nan_watch.capsule.content import Capsule
    from probes.record import Recorder
    from probes.subject import Subject

Place = Annotated[
    Path, typer.Argument(metavar="CAPSULE", help="A capsule, or a run folder that holds one.")
]
Told = Annotated[
    str | None,
    typer.Option(
        "--subject",
        help="FILE.py:NAME of the subject, where the capsule does not name it.",
        show_default=False,
    ),
]


def replay(capsule: Place, subject: Told = None, device: Device = None, out: Out = None) -> None:
    """Run a refused step again from its capsule; say whether it gives the same finding."""
    held, ready = _ready(capsule, subject, device)
    recorder, outcome = _run(held, ready, out, "replay", capsule)
    print(_said(held, outcome, recorder.facts["device"]))
    _end(recorder, outcome)


def shrink(capsule: Place, subject: Told = None, device: Device = None, out: Out = None) -> None:
    """Find the fewest samples of a capsule that still fail; write them as a smaller capsule."""
    from dataclasses import replace

    from nan_watch.capsule.folder import save
    from nan_watch.capsule.shrink import shrink as smallest
    from probes.progress import progress

    held, ready = _ready(capsule, subject, device)
    with progress() as shown:
        bar = shown.add_task("shrink", total=None, said="")

        def say(left: int, tries: int) -> None:
            shown.update(bar, completed=tries, said=f"{left} samples left")

        shrunk = smallest(held, ready, say)
    recorder, outcome = _run(shrunk.capsule, ready, out, "shrink", capsule)
    told = next(iter(outcome.judgement.findings), held.finding)
    save(replace(shrunk.capsule, finding=told), recorder.folder / "capsule")
    if shrunk.interrupted:
        print("ended by Ctrl-C: a smaller set may fail as well")
    samples = shrunk.capsule.samples or ()
    print(f"samples: {','.join(map(str, samples))}")
    print(f"{len(samples)} still fail, found in {shrunk.tries} tries")
    print(f"capsule: {recorder.folder / 'capsule'}")
    _end(recorder, outcome)


def _ready(place: Path, told: str | None, device: str | None) -> tuple[Capsule, Subject]:
    from nan_watch.capsule.again import address
    from nan_watch.capsule.folder import load

    held = load(place)
    return held, prepare(address(held, told), held.seed or 0, device)


def _run(
    held: Capsule, ready: Subject, out: Path | None, part: str, place: Path
) -> tuple[Recorder, Again]:
    from nan_watch.capsule.again import again
    from nan_watch.causes import RULES as CAUSES
    from probes.finding import limits
    from probes.record import Recorder, new_folder

    settings: dict[str, Any] = {"part": part, "capsule": str(place), "subject": held.subject}
    home = next((str(parameter.device) for parameter in ready.model.parameters()), None)
    recorder = Recorder(
        new_folder(out), seed=held.seed, device=home, settings=settings, limits=limits(CAUSES)
    )
    with recorder.unless_refused():
        return recorder, again(held, ready, recorder)


def _said(held: Capsule, outcome: Again, device: str | None) -> str:
    where = f"{held.finding.code} of step {held.start.step}"
    if outcome.differs is None:
        return f"{where} does not reproduce on {device}: the step is finite here"
    if outcome.differs:
        return f"{where} comes out as another here: {'; '.join(outcome.differs)}"
    return f"{where} reproduces on {device}: the same finding"


def _end(recorder: Recorder, outcome: Again) -> NoReturn:
    from reports import render

    recorder.close(outcome.judgement)
    finish(recorder.folder, outcome.judgement, render(recorder.folder))
