"""A job in a process of its own: what runs in the child, and the job that is a suite.

The parent writes one line, the job, to standard input and keeps it open: its end, be it that the
parent closes it or dies, ends the child. The child writes lines of JSON to standard output.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TextIO

from overfit.death import write_death
from overfit.plan import Plan

INTERRUPTED = 130
WRONG_REQUEST = 2
PAUSE = 0.1  # seconds between two words about the same suite


@dataclass(frozen=True, slots=True)
class Job:
    """A suite that a child is asked to run: nothing but an address and plain settings."""

    module: ClassVar[str] = "overfit.child"

    address: str
    device: str | None
    threads: int
    folder: Path
    plan: Plan

    @property
    def name(self) -> str:
        """The name of its part in the run folder."""
        return self.plan.name

    def died(self, said: str) -> None:
        """The record tells how the child ended before its time."""
        write_death(self.folder, self.plan, said)

    def line(self) -> str:
        """The job as one line of JSON."""
        return json.dumps({**asdict(self), "folder": str(self.folder), "argv": sys.argv}) + "\n"

    @classmethod
    def read(cls, row: dict[str, Any]) -> Job:
        """The job that `line` wrote."""
        plan = Plan.from_json(row["plan"])
        return cls(row["address"], row["device"], row["threads"], Path(row["folder"]), plan)


def main() -> None:
    """The suite has run; ends with the status that says how."""
    serve(lambda row, mouth: _run(Job.read(row), mouth))


def serve(run: Callable[[dict[str, Any], TextIO], int]) -> None:
    """`run` has done the job that the parent wrote; ends with the status that it returned."""
    # a parent in the background may ignore Ctrl-C; a child must hear that its parent has ended
    signal.signal(signal.SIGINT, signal.default_int_handler)
    row = json.loads(_line())
    sys.argv = row["argv"]
    mouth = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what the user's code prints goes where its errors go
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        raise SystemExit(run(row, mouth))
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _line() -> bytes:
    """The first line of standard input, and not a byte more: the rest is the thread's."""
    with open(0, "rb", buffering=0, closefd=False) as raw:
        return raw.readline()


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    _thread.interrupt_main()


def _run(job: Job, mouth: TextIO) -> int:
    import torch

    from overfit.suite import run_suite
    from probes.command import prepare
    from probes.errors import RequestError

    torch.set_num_threads(job.threads)
    try:
        subject = prepare(job.address, job.plan.first_seed, job.device)
        run_suite(subject, job.plan, job.folder, Mouth(mouth))
    except RequestError as error:
        mouth.write(json.dumps({"wrong": str(error)}) + "\n")
        return WRONG_REQUEST
    return 0


class Mouth:
    """Tells the parent where its job stands, not more often than one can read."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.words = ""
        self.next = 0.0

    def __call__(self, step: int, words: str) -> None:
        """The parent knows, unless it heard just now."""
        self.words = words or self.words
        if words or time.monotonic() >= self.next:
            self.next = time.monotonic() + PAUSE
            self.out.write(json.dumps({"step": step, "words": self.words}) + "\n")
