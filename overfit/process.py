"""Jobs side by side, each in a fresh process: what runs in the parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from overfit.child import WRONG_REQUEST
from probes.errors import RequestError

START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import {0} as c; c.main()"
POLL = 0.05  # seconds
PATIENCE = 10.0  # seconds that an ended child may take to close its record


class Work(Protocol):
    """What a child does: its module's `main` reads `line` and writes into `folder`."""

    module: ClassVar[str]

    @property
    def name(self) -> str:
        """The name of its part in the run folder."""

    @property
    def folder(self) -> Path:
        """Its part of the run folder, `RUN/parts/NAME`."""

    def line(self) -> str:
        """The job as one line of JSON."""

    def died(self, said: str) -> None:
        """The record tells how the child ended before its time."""


Job = TypeVar("Job", bound=Work)


class Process(Generic[Job]):
    """One job in a process; `step` and `words` say where it stands."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.step = 0
        self.words = ""
        self.wrong: str | None = None
        output = job.folder.parent.parent / "output"
        output.mkdir(exist_ok=True)
        self.output = output / f"{job.name}.txt"
        with self.output.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", START.format(job.module), json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # Ctrl-C reaches the parent alone, which then ends its children one by one
                process_group=0 if os.name == "posix" else None,
            )
        self._say(job.line())
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died at once; its status tells
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.hear(json.loads(line))

    def hear(self, row: dict[str, Any]) -> None:
        """What the child said is known."""
        self.wrong = row.get("wrong", self.wrong)
        self.step = row.get("step", self.step)
        self.words = row.get("words", self.words)

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self.process.poll() is None

    @property
    def status(self) -> int:
        """As the ended process ended."""
        return self.process.returncode

    def finish(self) -> None:
        """The ended process is cleared away; a death stands in the record.

        Raises RequestError where the child found that the request was wrong.
        """
        self._close()
        status = self.status
        if status == WRONG_REQUEST and self.wrong is not None:
            raise RequestError(self.wrong)
        if status:
            self.job.died(self._last_words(status))

    def end(self) -> None:
        """The process was asked to end, and has; its record is readable."""
        self._hang_up()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()

    def _hang_up(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def _close(self) -> None:
        self._hang_up()
        self._ear.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        if self.output.stat().st_size == 0:
            self.output.unlink()
            with suppress(OSError):  # another child's output is still there
                self.output.parent.rmdir()

    def _last_words(self, status: int) -> str:
        how = f"its process ended with status {status}"
        if status < 0:
            how = f"its process was killed by {signal.Signals(-status).name}"
            if -status == signal.SIGKILL:
                how += " (as a system does that runs out of memory)"
        lines = self.output.read_text(errors="replace").split("\n") if self.output.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), None)
        return how if last is None else f"{how}; its last words: {last}"


Start = Callable[[Job], Process[Job]]


class SideBySide(Generic[Job]):
    """Runs jobs, so many at a time; leaving the block ends those that still run.

    start: a job is on its way, by default in a process of this machine.
    """

    def __init__(self, jobs: Sequence[Job], at_once: int, start: Start[Job] | None = None) -> None:
        self.waiting = list(jobs)
        self.at_once = at_once
        self._begin: Start[Job] = start or Process
        self.running: list[Process[Job]] = []
        self.all: list[Process[Job]] = []

    def __enter__(self) -> SideBySide[Job]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.running:
            process._hang_up()  # all at once, before the first is waited for
        for process in self.running:
            process.end()

    def start(self) -> None:
        """As many processes run as may, and those that ended are cleared away."""
        for process in [each for each in self.running if not each.running]:
            self.running.remove(process)
            process.finish()
        while self.waiting and len(self.running) < self.at_once:
            process = self._begin(self.waiting.pop(0))
            self.running.append(process)
            self.all.append(process)

    def wait(self, look: Callable[[Sequence[Process[Job]]], None]) -> None:
        """Every job has ended; `look` is called again and again with what was started."""
        self.start()
        while self.running:
            look(self.all)
            time.sleep(POLL)
            self.start()
        look(self.all)
