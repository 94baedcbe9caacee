"""What the watch found, each story once, however many steps it went on for."""

from __future__ import annotations

from dataclasses import replace

from probes.finding import Evidence, Finding

KEPT = 20  # stories told apart; what comes after is counted with the last one


class Stories:
    """Findings by code, site and phase, with the number of steps that each one took."""

    def __init__(self) -> None:
        self._told: dict[tuple[str | None, ...], tuple[Finding, int]] = {}

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self._told)

    def tell(self, finding: Finding, *, goes_on: bool = False) -> bool:
        """The finding is told, or counted with the first of its kind; returns whether it is new.

        goes_on: whether it can only be the consequence of the first story.
        """
        key: tuple[str | None, ...] = (finding.code, finding.site, finding.phase)
        if goes_on and self._told:
            key = next(iter(self._told))
        elif key not in self._told and len(self._told) >= KEPT:
            key = list(self._told)[-1]
        first, count = self._told.get(key, (finding, 0))
        self._told[key] = (first, count + 1)
        return count == 0

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
