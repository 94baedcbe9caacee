"""Jobs on a Ray cluster: each is a task, which runs the job's process on the node that it got."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from overfit.engine import Place
from overfit.process import PATIENCE, Job, Process
from overfit.ray_task import Asked, served, unpacked
from probes.errors import RequestError

try:
    import ray
except ImportError as error:
    raise RequestError(
        "`--engine ray` needs Ray, which is not installed: `pip install whynan[ray]`, or leave "
        "the option out."
    ) from error


@contextmanager
def cluster() -> Iterator[Place]:
    """Connected to the cluster that RAY_ADDRESS names or that runs here, or to a new local one.

    A connection that was there before stays.
    """
    ours = not ray.is_initialized()
    # by 2.60 a warning is printed where this is not set, and the new behaviour is the wanted one
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # else a busy machine hardly lets them run
    try:
        if ours:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = [int(each["Resources"].get("CPU", 0)) for each in known if each["Alive"]]
    except (RuntimeError, ConnectionError, TimeoutError) as error:
        raise RequestError(
            f"`--engine ray` found no cluster: {error}; start one by `ray start --head`, or name "
            "it by RAY_ADDRESS."
        ) from error
    try:
        counts = [count for count in nodes if count]
        yield Place(max(1, sum(counts)), min(counts, default=1), RayProcess)
    finally:
        if ours:
            ray.shutdown()


class RayProcess(Process[Job]):
    """One job as a task of Ray; `step` and `words` say where it stands."""

    def __init__(self, job: Job, threads: int) -> None:
        self.job = job
        self.step = 0
        self.words = ""
        self.wrong: str | None = None
        self._status: int | None = None
        self._lost: str | None = None
        self.output = job.folder.parent.parent / "output" / f"{job.name}.txt"
        folder = job.folder.absolute()
        asked = Asked(
            job.module, job.line(), str(folder), str(folder.parent.parent / "run.json"), os.getcwd()
        )
        task = ray.remote(served).options(
            num_cpus=threads, max_retries=0, num_returns="streaming", name=job.name
        )
        self._said: Any = task.remote(asked, list(sys.path))
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()

    def _listen(self) -> None:
        try:
            for each in self._said:
                self._hear(ray.get(each))
        except ray.exceptions.RayError as error:
            first = str(error).strip().split("\n")[0]
            self._lost = f"its Ray worker was lost ({type(error).__name__}: {first})"

    def _hear(self, row: dict[str, Any]) -> None:
        if "line" in row:
            self.hear(json.loads(row["line"]))
            return
        if row["said"]:
            self.output.parent.mkdir(exist_ok=True)
            self.output.write_text(row["said"], encoding="utf-8")
        if row["files"] is not None:
            unpacked(row["files"], self.job.folder)
        self._status = row["status"]

    @property
    def running(self) -> bool:
        """Whether the task is alive, or waits for its node."""
        return self._ear.is_alive()

    @property
    def status(self) -> int:
        """As the job's process ended; 1 where its worker was lost."""
        return 1 if self._status is None else self._status

    def end(self) -> None:
        """The task was asked to end, and has; its record is readable."""
        self._ear.join(PATIENCE)
        if self._ear.is_alive():
            with suppress(ray.exceptions.RayError):
                ray.cancel(self._said, force=True)

    def _hang_up(self) -> None:
        if self._ear.is_alive():
            with suppress(ray.exceptions.RayError):
                ray.cancel(self._said)

    def _close(self) -> None:
        self._ear.join(PATIENCE)

    def _last_words(self, status: int) -> str:
        return self._lost or super()._last_words(status)
