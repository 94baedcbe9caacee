"""Runs the experiments of a notebook side by side, and writes what they came to."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from overfit.engine import opened
from overfit.entry_child import EntryJob
from overfit.experiment import asked_of, steps_of
from overfit.notebook import Entry, Notebook, load_notebook
from overfit.process import Process, SideBySide
from overfit.results import Found, Result, read_found, read_results
from overfit.resume import is_complete, open_folder
from probes import strict_json
from probes.command import check_device
from probes.record import Recorder
from probes.run import Run

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(frozen=True, slots=True)
class Outcome:
    """A notebook that was run: its folder, its results in order, and whether it was interrupted."""

    folder: Path
    results: tuple[Result, ...]
    found: tuple[Found, ...]
    interrupted: bool


def run_notebook(
    address: str,
    only: Sequence[str] = (),
    *,
    quick: bool = False,
    seed: int = 0,
    jobs: int | None = None,
    out: Path | None = None,
    resume: bool = False,
    engine: str = "local",
    device: str | None = None,
) -> Outcome:
    """The experiments have run, each in a process of its own; the folder holds `results.json`.

    only: names of those to run; all by default. resume: experiments that are complete in `out`,
    and are set as they were, are not run again. Ctrl-C ends all processes and keeps what is done.
    engine: what runs them, `local` or `ray`. device: where models and batches are moved.
    Raises RequestError where the notebook, a name, the folder, the engine or the device will not
    do.
    """
    notebook = load_notebook(address)
    entries = tuple(map(notebook.entry, dict.fromkeys(only))) if only else notebook.entries
    if device is not None:
        check_device(device)
    asked = {"part": "notebook", "notebook": address, "quick": quick, "seed": seed}
    asked |= {} if device is None else {"device": device}
    folder = open_folder(out, resume, asked)
    _drop_changed(notebook, folder, quick, seed)
    record = Recorder(folder, seed=seed, device=device or "cpu", settings=asked)
    waiting = to_run(notebook, entries, folder)
    interrupted = False
    try:
        with opened(engine) as place:
            at_once = place.at_once(jobs, len(waiting))
            threads = place.threads(at_once)
            work = [
                EntryJob(
                    *(address, each.name, seed, quick, threads),
                    folder / "parts" / each.name,
                    device,
                )
                for each in waiting
            ]
            steps = {each.name: steps_of(each, quick) for each in waiting}
            _run(SideBySide(work, at_once, place.starting(threads)), steps)
    except KeyboardInterrupt:
        interrupted = True
    return _told(notebook, record, interrupted)


def to_run(notebook: Notebook, entries: Sequence[Entry], folder: Path) -> list[Entry]:
    """Those that are not complete, each once: what is the same as another one waits for that."""
    there = {path.name for path in (folder / "parts").glob("*")}
    known = there | {entry.name for entry in entries}
    runs = {}
    for entry in entries:
        first = entry
        while first.name not in there and first.same_as is not None and first.same_as in known:
            first = notebook.entry(first.same_as)
        if first.name not in there:
            runs[first.name] = first
    return list(runs.values())


def _drop_changed(notebook: Notebook, folder: Path, quick: bool, seed: int) -> None:
    """What is complete but set otherwise by now is no longer there."""
    for entry in notebook.entries:
        part = folder / "parts" / entry.name
        if is_complete(part):
            asked = strict_json.encode(asked_of(entry, quick, seed))
            before = Run(part).facts["settings"]
            if any(before.get(name) != value for name, value in asked.items()):
                shutil.rmtree(part)


def _run(side_by_side: SideBySide[EntryJob], steps: dict[str, int]) -> None:
    from probes.progress import progress

    with progress() as shown, side_by_side as processes:
        bars = _Bars(shown, steps)
        processes.wait(bars.look)


class _Bars:
    """One bar for all experiments, and one for each that is at work."""

    def __init__(self, shown: Progress, steps: dict[str, int]) -> None:
        self.shown = shown
        self.steps = steps
        self.all = shown.add_task("experiments", total=len(steps), said="")
        self.tasks: dict[str, TaskID] = {}

    def look(self, processes: Sequence[Process[EntryJob]]) -> None:
        """The bars stand where these processes do."""
        for each in processes:
            name = each.job.name
            if each.running and name not in self.tasks:
                self.tasks[name] = self.shown.add_task(name, total=self.steps[name], said="")
            if name in self.tasks:
                self.shown.update(
                    self.tasks[name],
                    completed=each.step,
                    said=each.words,
                    visible=each.running,
                )
        done = sum(not each.running for each in processes)
        self.shown.update(self.all, completed=done)


def _told(notebook: Notebook, record: Recorder, interrupted: bool) -> Outcome:
    """`results.json` holds what there is; the run is complete where every experiment is."""
    results = read_results(notebook, record.folder)
    found = read_found(notebook, results)
    rows = {
        "schema": 1,
        "title": notebook.title,
        "notes": list(notebook.notes),
        "bugs": [asdict(each) for each in found],
        "results": [each.as_json() for each in results],
    }
    strict_json.write(record.folder / "results.json", rows)
    if interrupted:
        record.note(interrupted=True)
    record.close(complete=all(each.state == "complete" for each in results))
    return Outcome(record.folder, results, found, interrupted)
