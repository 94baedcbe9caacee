"""How far a run of several parts came: what is finished, what was cut off, what never began."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from probes.interrupts import goes_on
from probes.run import Run
from reports.reading.stretches import Stretch, settings, stretches

RESUMED = ("diagnosis", "overfit", "notebook")
"""The kinds of run that `--resume` goes on with."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The names of a run's parts, and the command that goes on with it, where there is one."""

    finished: tuple[str, ...]
    cut: tuple[str, ...]
    not_begun: tuple[str, ...]
    command: str | None

    @property
    def words(self) -> Iterator[str]:
        """Each in a sentence."""
        if self.finished:
            yield f"Finished, and judged: {', '.join(self.finished)}."
        if self.cut:
            yield f"Cut off before they were done: {', '.join(self.cut)}."
        if self.not_begun:
            yield f"Not begun: {', '.join(self.not_begun)}."
        if self.command:
            yield f"Go on with `{self.command}`."


def standing(run: Run, every: list[Stretch] | None = None) -> Standing:
    """How far the run came. every: its stretches, where they are known."""
    parts = (stretches(run) if every is None else every)[1:]
    asked, command = settings(run), run.facts.get("command")
    never = asked.get("not_begun")
    words = command if isinstance(command, list) and asked.get("part") in RESUMED else ()
    return Standing(
        finished=tuple(name for name, part in parts if part.complete),
        cut=tuple(name for name, part in parts if not part.complete),
        not_begun=tuple(map(str, never)) if isinstance(never, list) else (),
        command=None if run.complete else goes_on([str(word) for word in words], run.folder),
    )
