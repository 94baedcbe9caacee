"""The cost of each tool: its step between two bare ones, hundreds of times, in random order."""

from __future__ import annotations

import gc
import math
import random
import statistics
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from time import perf_counter, process_time

import torch

from nan_watch.bench.intervals import Interval, interval
from nan_watch.bench.switch import Arm, Hooks
from nan_watch.bench.tools import TOOLS, Tool, bare
from nan_watch.bench.workloads import Workload
from probes.command import on_device
from probes.errors import RequestError
from probes.loop import Loop
from probes.subject import Batch

WANTED = 0.005  # how far the median of a row of ours may be off
CHECKED = 20  # rounds between two looks at the intervals
EVERY = 8  # rounds between two of the other tools, whose cost is no matter of half percents
AHEAD = 8  # steps of a turn on CUDA, which are asked for without waiting in between

Say = Callable[[int, float], None]
"""Is told after every round: rounds, and how far the widest of our rows may be off."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one tool costs: `ratio` to the bare step, or `why` it was not measured."""

    tool: str
    ratio: Interval | None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Costs:
    """What all tools cost on one workload.

    seconds: the median of a bare step. interrupted: whether Ctrl-C ended it.
    """

    workload: str
    what: str
    seconds: float | None
    rows: tuple[Cost, ...]
    interrupted: bool = False


class Measurement:
    """Times the tools on one loop; `rounds` may be left at any round."""

    def __init__(self, loop: Loop, tools: Sequence[Tool], device: str = "cpu") -> None:
        self.loop = loop
        self.tools = tools
        self.batches = list(loop.subject.batches)
        self.bare: list[float] = []
        self.ratios: dict[str, list[float]] = {}
        self.failed: dict[str, str] = {}
        self.width = math.inf
        self.clock = clock(device)
        self.steps = steps_of_a_turn(device)
        with bare(loop) as alone:
            self._plain = Arm("bare", False, alone, Hooks(()))

    def rounds(self, pairs: int, seconds: float) -> Generator[int, None, None]:
        """Counts rounds, in each of which every tool that takes part has had its turn.

        Ends where our rows are known well enough, or with this many pairs or seconds.
        """
        with ExitStack() as opened:
            arms = [_arm(opened, self.loop, tool) for tool in self.tools]
            self._warm_up(arms)
            opened.callback(gc.unfreeze)
            gc.collect()
            gc.freeze()  # the collector goes through what a step made, not through every import
            chance, end = random.Random(0), perf_counter() + seconds
            for done in range(1, pairs + 1):
                turns = [arm for arm in arms if arm.ours or done % EVERY == 1]
                chance.shuffle(turns)
                self._round(turns, self.batches[done % len(self.batches)])
                if done % CHECKED == 0:
                    self.width = self._widest()
                yield done
                if self.width <= WANTED or perf_counter() > end:
                    return

    def _warm_up(self, arms: Sequence[Arm]) -> None:
        """Every tool has done the steps that are its beginning, over all batches in turn."""
        for arm, steps in ((self._plain, 2), *zip(arms, [t.warm for t in self.tools], strict=True)):
            for index in range(steps):
                self._try(arm, self.batches[index % len(self.batches)])

    def _round(self, turns: Sequence[Arm], batch: Batch) -> None:
        """Every turn's steps stood between bare ones, whose geometric mean is their unit."""
        before = self._timed(self._plain, batch)
        for arm in turns:
            taken = self._try(arm, batch)
            after = self._timed(self._plain, batch)
            if taken is not None:
                self.bare.append(after)
                self.ratios.setdefault(arm.name, []).append(taken / math.sqrt(before * after))
            before = after

    def _try(self, arm: Arm, batch: Batch) -> float | None:
        """Seconds of the tool's step; None once the tool has raised, which is kept."""
        if arm.name in self.failed:
            return None
        try:
            return self._timed(arm, batch)
        except Exception as error:
            if arm is self._plain:
                raise
            self.failed[arm.name] = f"{type(error).__name__}: {error}".split("\n")[0]
            return None

    def _timed(self, arm: Arm, batch: Batch) -> float:
        """Seconds of a step with the arm's hooks, which are off again."""
        arm.hooks.on()
        try:
            return timed(lambda: arm.step(batch), self.clock, self.steps)
        finally:
            arm.hooks.off()

    def _widest(self) -> float:
        """How far the least known of our rows may be off."""
        ours = [self.ratios[t.name] for t in self.tools if t.ours and t.name in self.ratios]
        return max((interval(ratios).width for ratios in ours), default=math.inf)

    def rows(self) -> tuple[Cost, ...]:
        """What is known by now of every tool."""
        return tuple(self._row(tool.name) for tool in self.tools)

    def _row(self, name: str) -> Cost:
        if name in self.failed:
            return Cost(name, None, f"raised {self.failed[name]}")
        ratios = self.ratios.get(name)
        return Cost(name, interval(ratios)) if ratios else Cost(name, None, "ended before its turn")


def measure(
    workload: Workload,
    *,
    pairs: int,
    seconds: float,
    tools: Sequence[Tool] = TOOLS,
    device: str = "cpu",
    say: Say | None = None,
) -> Costs:
    """The tools' ratios on the workload, until ours are known to half a percent.

    pairs, seconds: where it ends at the latest. A tool that raises on the healthy model, and a
    workload that cannot be had here, are rows that say so. Ctrl-C keeps what there is.
    """
    at_work, interrupted = None, False
    try:
        at_work = Measurement(Loop(on_device(workload.make(), device)), tools, device)
        with closing(at_work.rounds(pairs, seconds)) as rounds:
            for done in rounds:
                if say is not None:
                    say(done, at_work.width)
    except KeyboardInterrupt:
        interrupted = True
    except RequestError as error:
        missing = tuple(Cost(tool.name, None, str(error)) for tool in tools)
        return Costs(workload.name, workload.what, None, missing)
    if at_work is None:
        rows, middle = tuple(Cost(tool.name, None, "ended before its turn") for tool in tools), None
    else:
        rows = at_work.rows()
        middle = statistics.median(at_work.bare) if at_work.bare else None
    return Costs(workload.name, workload.what, middle, rows, interrupted)


def _arm(opened: ExitStack, loop: Loop, tool: Tool) -> Arm:
    """The tool is open; its hooks are off until its turn, and on again where it closes."""
    step = opened.enter_context(tool.around(loop))
    hooks = Hooks.taken(loop)
    opened.callback(hooks.on)
    return Arm(tool.name, tool.ours, step, hooks)


def clock(device: str = "cpu") -> Callable[[], float]:
    """Seconds: of this process alone where torch has one thread, so that others do not count.

    On CUDA, of everybody, once all that was asked of the device is done.
    """
    if torch.device(device).type == "cuda":
        return synchronized
    return process_time if torch.get_num_threads() == 1 else perf_counter


def synchronized() -> float:
    """Seconds, after the CUDA device has done what it was asked for."""
    torch.cuda.synchronize()
    return perf_counter()


def steps_of_a_turn(device: str) -> int:
    """Several on CUDA, where a loop that never waits runs ahead of the device; else one."""
    return AHEAD if torch.device(device).type == "cuda" else 1


def timed(step: Callable[[], object], now: Callable[[], float], steps: int) -> float:
    """Seconds of one step, the mean of `steps` in a row."""
    began = now()
    for _ in range(steps):
        step()
    return (now() - began) / steps
