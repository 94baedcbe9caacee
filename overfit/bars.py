"""Where the hunt and every suite stand, for one who waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from overfit.child import Job
from overfit.process import Process

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


MEMORISED = "memorised"
"""What a suite says as it stops before its last step, and is then looked at."""


@dataclass
class Bars:
    """One bar a name, made when it is first spoken of."""

    shown: Progress
    tasks: dict[str, TaskID] = field(default_factory=dict)

    def tell(self, name: str, total: int, done: int, words: str) -> None:
        """The bar of this name stands there; without words it keeps those that it has."""
        if name not in self.tasks:
            self.tasks[name] = self.shown.add_task(name, total=total, said="")
        self.shown.update(self.tasks[name], completed=done, total=total)
        if words:
            self.shown.update(self.tasks[name], said=words)

    def look(self, processes: Sequence[Process[Job]]) -> None:
        """The bars of these processes stand where they do."""
        for each in processes:
            plan = each.job.plan
            if each.running and each.words != MEMORISED:
                self.tell(plan.name, max(plan.steps, each.step), each.step, each.words)
            else:  # it may have stopped early
                words = ", ".join(filter(None, ("" if each.running else "done", each.words)))
                self.tell(plan.name, max(1, each.step), max(1, each.step), words)
