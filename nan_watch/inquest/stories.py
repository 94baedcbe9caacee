"""What the watch found, each story once, however many steps it went on for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from probes.finding import Evidence, Finding, Verdict

KEPT = 20  # stories told apart; what comes after is counted with the last one


class Stories:
    """Findings by code, site and phase, with the number of steps that each one took."""

    def __init__(self) -> None:
        self._told: dict[tuple[str | None, ...], tuple[Finding, int]] = {}
        self._gone_on: set[tuple[str | None, ...]] = set()

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self._told)

    def tell(self, finding: Finding, *, goes_on: bool = False) -> bool:
        """The finding is told, or counted with the first of its kind; returns whether it is new.

        goes_on: whether it can only be the consequence of the first story.
        """
        key: tuple[str | None, ...] = (finding.code, finding.site, finding.phase)
        if goes_on and (begun := self._first()) is not None:
            key = begun
        elif key not in self._told and len(self._told) >= KEPT:
            key = list(self._told)[-1]
        first, count = self._told.get(key, (finding, 0))
        self._told[key] = (first, count + 1)
        return count == 0

    def go_on(self, lines: Iterable[Evidence]) -> None:
        """The first story goes on in these lines, unless a later step has told how before."""
        key = self._first()
        if key is not None and key not in self._gone_on:
            first, count = self._told[key]
            self._gone_on.add(key)
            self._told[key] = (replace(first, evidence=(*first.evidence, *lines)), count)

    def _first(self) -> tuple[str | None, ...] | None:
        """The story that poisoned a step first; a remark does not."""
        failed = (key for key, (each, _) in self._told.items() if each.verdict is Verdict.FAIL)
        return next(failed, None)

    def rename(self, finding: Finding, told: Finding) -> None:
        """The story that this finding began is told in other words."""
        for key, (first, count) in self._told.items():
            if first is finding:
                self._told[key] = (told, count)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Each story's first finding, in the order of telling, with its count."""
        return tuple(_counted(*story) for story in self._told.values())


def _counted(finding: Finding, count: int) -> Finding:
    if count == 1:
        return finding
    again = Evidence("poisoned steps like this one", count, 0)
    return replace(finding, evidence=(*finding.evidence, again))
