"""Where jobs run: on this machine, or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from overfit.process import Process


@dataclass(frozen=True, slots=True)
class Place:
    """Where the jobs run.

    cores: of all its machines. a_machine: what one job may take, at most those of the smallest of
    them. start: a job is on its way.
    """

    cores: int
    a_machine: int
    start: Callable[[Any, int], Process[Any]]

    def at_once(self, jobs: int | None, count: int) -> int:
        """How many of so many jobs run side by side. jobs: what was asked for."""
        return max(1, min(jobs or self.cores, count))

    def threads(self, at_once: int) -> int:
        """Torch's threads in each of them."""
        return max(1, min(self.cores // at_once, self.a_machine))

    def starting(self, threads: int) -> Callable[[Any], Process[Any]]:
        """Starts a job that takes so many threads."""
        return lambda job: self.start(job, threads)


@contextmanager
def opened(engine: str) -> Iterator[Place]:
    """The place that `local` or `ray` names is ready; what runs there is the same on either.

    Raises RequestError where Ray is not installed or gives no cluster."""
    if engine == "ray":
        from overfit.ray_cluster import cluster

        with cluster() as place:
            yield place
    else:
        cores = os.cpu_count() or 1
        yield Place(cores, most_threads(cores), lambda job, threads: Process(job))


def most_threads(cores: int) -> int:
    """Torch's threads of one process: all cores, or what `OMP_NUM_THREADS` sets.

    Whoever shares the cores with others sets it, since threads that wait for one another are slower
    by far where a core is taken than one alone.
    """
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return min(cores, int(said)) if said.isdigit() and int(said) else cores
