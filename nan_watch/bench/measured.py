"""Everything that `whynan bench` measures, as far as it came."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nan_watch.bench.costs import Cost, Costs, clock, measure
from nan_watch.bench.memory import Memory, peak_memory
from nan_watch.bench.tools import TOOLS
from nan_watch.bench.trainers import measure_trainer
from nan_watch.bench.twins import Trainer
from nan_watch.bench.workloads import Workload
from probes.record import environment

if TYPE_CHECKING:
    from rich.progress import Progress

SCHEMA = 1


@dataclass
class Measured:
    """What `bench.json` holds.

    steps: the costs in time, one entry a workload. trainers: the same, one a way to train.
    memory: None where none was asked for. complete: false where Ctrl-C ended it. device:
    where the models are.
    """

    steps: list[Costs] = field(default_factory=list)
    trainers: list[Costs] = field(default_factory=list)
    memory: Memory | None = None
    complete: bool = True
    device: str = "cpu"

    def take_memory(self, workload: Workload, repeats: int, threads: int, shown: Progress) -> None:
        """Peak memory is measured, `repeats` processes a tool; none where that is 0.

        Raises KeyboardInterrupt after what it interrupted.
        """
        if repeats:
            bar = shown.add_task("memory", total=repeats * (1 + len(TOOLS)), said=workload.name)
            self.memory = peak_memory(
                workload,
                repeats=repeats,
                threads=threads,
                device=self.device,
                say=lambda: shown.advance(bar),
            )
            if self.memory.interrupted:
                raise KeyboardInterrupt

    def take_steps(self, workload: Workload, pairs: int, seconds: float, shown: Progress) -> None:
        """The costs in time are measured. Raises KeyboardInterrupt after what it interrupted."""
        bar = shown.add_task(workload.name, total=pairs, said="")

        def say(rounds: int, width: float) -> None:
            shown.update(bar, completed=rounds, said=f"± {width:.2%}")

        taken = measure(workload, pairs=pairs, seconds=seconds, device=self.device, say=say)
        self.steps.append(taken)
        if self.steps[-1].interrupted:
            raise KeyboardInterrupt

    def take_trainer(self, trainer: Trainer, pairs: int, seconds: float, shown: Progress) -> None:
        """The cost with this trainer is measured. Raises KeyboardInterrupt where interrupted."""
        bar = shown.add_task(trainer.name, total=pairs, said="")

        def say(rounds: int, width: float) -> None:
            shown.update(bar, completed=rounds)

        taken = measure_trainer(trainer, pairs=pairs, seconds=seconds, device=self.device, say=say)
        self.trainers.append(taken)
        if self.trainers[-1].interrupted:
            raise KeyboardInterrupt

    def rows(self) -> Iterator[Cost]:
        """The rows of all tables."""
        for each in (*self.steps, *self.trainers):
            yield from each.rows
        if self.memory is not None:
            yield from self.memory.rows

    def as_json(self) -> dict[str, Any]:
        """The whole, with date and machine; `warm_up`: steps of each tool that did not count."""
        return {
            "schema": SCHEMA,
            "complete": self.complete,
            **surroundings(self.device),
            "warm_up": {tool.name: tool.warm for tool in TOOLS},
            "steps": [asdict(each) for each in self.steps],
            "trainers": [asdict(each) for each in self.trainers],
            "memory": None if self.memory is None else asdict(self.memory),
        }


def surroundings(device: str) -> dict[str, Any]:
    """What the numbers hang on: date, processor, device, cores, threads, clock, and versions."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": cpu(),
        "device": device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": clock(device).__name__,
        "system": f"{platform.system()} {platform.machine()}",
        **environment(),
    }


def device_name(device: str) -> str:
    """`cpu`, or the accelerator's name as its driver tells it."""
    on = torch.device(device)
    return torch.cuda.get_device_name(on) if on.type == "cuda" else device


def cpu() -> str:
    """The processor's name as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
