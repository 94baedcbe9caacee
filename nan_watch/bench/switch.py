"""Several tools on one model and one optimizer, with the hooks of one of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nan_watch.bench.tools import Step
from probes.loop import Loop

Table = dict[Any, Any]


def tables(loop: Loop) -> Iterator[Table]:
    """The tables of hooks that torch keeps in every module and in the optimizer."""
    for owner in (*loop.model.modules(), loop.optimizer):
        for name, value in vars(owner).items():
            if isinstance(value, dict) and "hooks" in name:
                yield value


@dataclass(frozen=True, slots=True)
class Hooks:
    """Hooks and the tables they came from."""

    held: tuple[tuple[Table, Table], ...]

    @classmethod
    def taken(cls, loop: Loop) -> Hooks:
        """Every hook that is on, which is off now: the loop is bare."""
        held = tuple((table, dict(table)) for table in tables(loop) if table)
        for table, _ in held:
            table.clear()
        return cls(held)

    def on(self) -> None:
        """The hooks stand in their tables, in their order."""
        for table, hooks in self.held:
            table.update(hooks)

    def off(self) -> None:
        """The loop is bare."""
        for table, _ in self.held:
            table.clear()


@dataclass(frozen=True, slots=True)
class Arm:
    """A tool's step, and the hooks that are on while it runs."""

    name: str
    ours: bool
    step: Step
    hooks: Hooks
