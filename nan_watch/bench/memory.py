"""The largest memory of a process that trains under a tool: `ru_maxrss`, or the accelerator's.

Each figure is a process of its own: `python -m nan_watch.bench.memory minilm sites 6 1 cpu`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from nan_watch.bench.costs import Cost
from nan_watch.bench.intervals import interval
from nan_watch.bench.tools import TOOLS, Tool, bare
from nan_watch.bench.workloads import WORKLOADS, Workload
from probes.command import on_device
from probes.loop import Loop

MODULE = "nan_watch.bench.memory"
STEPS = 6
# a process counts the peak of the one that started it as its own: a small one stands between
BETWEEN = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
BARE = Tool("bare", False, bare)


class NotMeasured(RuntimeError):  # noqa: N818
    """A process could not tell its peak; says why."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory on one workload: the bare process's median, and the tools' ratios to it.

    interrupted: whether Ctrl-C ended it.
    """

    workload: str
    bare_bytes: int | None
    rows: tuple[Cost, ...]
    interrupted: bool = False


def peak_memory(
    workload: Workload,
    *,
    repeats: int,
    steps: int = STEPS,
    threads: int = 1,
    device: str = "cpu",
    tools: Sequence[Tool] = TOOLS,
    say: Callable[[], None] = lambda: None,
) -> Memory:
    """Peaks of processes of their own, the tools' as ratios to the bare one, pair by pair.

    say is called after each of the `repeats` times (1 + tools) processes. Ctrl-C keeps what there
    is.
    """
    peaks: dict[str, list[int]] = {tool.name: [] for tool in (BARE, *tools)}
    failed: dict[str, str] = {}
    interrupted = False
    try:
        for _ in range(repeats):
            for tool in (BARE, *tools):
                if tool.name not in failed:
                    try:
                        peaks[tool.name].append(_peak_of(workload, tool, steps, threads, device))
                    except NotMeasured as error:
                        failed[tool.name] = str(error)
                say()
    except KeyboardInterrupt:
        interrupted = True
    units = peaks[BARE.name]
    rows = tuple(_row(peaks[tool.name], units, failed, tool.name) for tool in tools)
    bare_bytes = int(statistics.median(units)) if units else None
    return Memory(workload.name, bare_bytes, rows, interrupted)


def _row(peaks: Sequence[int], units: Sequence[int], failed: Mapping[str, str], name: str) -> Cost:
    why = failed.get(name, failed.get(BARE.name))
    ratios = [peak / unit for peak, unit in zip(peaks, units, strict=False)]
    if why is None and not ratios:
        why = "ended before its turn"
    return Cost(name, None, why) if why is not None else Cost(name, interval(ratios))


def _peak_of(workload: Workload, tool: Tool, steps: int, threads: int, device: str) -> int:
    asked = [workload.name, tool.name, str(steps), str(threads), device]
    command = [sys.executable, "-c", BETWEEN, sys.executable, "-m", MODULE, *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise NotMeasured(told[-1])
    start, peak = map(int, done.stdout.split()[-2:])
    if peak <= start:
        raise NotMeasured("the process that started it was larger than its own peak")
    return peak


def _peak(device: str) -> int:
    """The most bytes that this process has held, or the one that started it at that time."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _train(workload: Workload, tool: Tool, steps: int, device: str) -> None:
    """The steps are done and the tool is closed."""
    loop = Loop(on_device(workload.make(), device))
    batches = list(loop.subject.batches)
    with tool.around(loop) as step:
        for index in range(steps):
            step(batches[index % len(batches)])


def _main(workload: str, tool: str, steps: str, threads: str, device: str) -> None:
    start = _peak(device)
    torch.set_num_threads(int(threads))
    _train(
        next(each for each in WORKLOADS if each.name == workload),
        next(each for each in (BARE, *TOOLS) if each.name == tool),
        int(steps),
        device,
    )
    print(start, _peak(device))


if __name__ == "__main__":
    _main(*sys.argv[1:])
