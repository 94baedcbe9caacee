"""IDX020: positions over windows laid end to end do not count what each window begins with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.reading.uncounted import Uncounted, uncounted


@dataclass(frozen=True, slots=True)
class UncountedHeads:
    """Tokens are picked from windows laid end to end, one more place aside with every window.

    Ids (sample, window, token) are encoded window by window, each of which begins with an id of its
    own, such as `[CLS]`; what comes of them is laid end to end, and tokens are picked from that.
    Positions that count the first of those ids and no later one are right in the first window, one
    short in the second, two in the third. Two things tell it. Positions name what later windows
    begin with as often as any token, and what the first one begins with never. Or tokens that have
    one class in the first window have that class in later ones so many places after the position as
    windows stand before, and seldom at the position. Where most positions name what windows
    begin with, these are what is asked for; where the first one's is named as well, all are.

    Sick: `flat = p + 1` of the word piece `p`, in windows of 15 with a `[CLS]` before each.
    Healthy: `flat = p + 1 + p // 15`.
    """

    least: int = 3  # positions that name what a later window begins with, and are expected to
    crowd: float = 3.0  # times as many as of any token, at most
    gain: float = 2.0  # times as many labels are told by the token further on
    labels: int = 10  # that are told so, at least, more than by the position itself

    code: ClassVar[str] = "IDX020"
    rule: ClassVar[str] = "uncounted-heads"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Ids (sample, window, token), and a loss."""
        if not any(t.ndim == 3 and not t.is_floating_point() for t in experiment.tensors.values()):
            return "no key holds ids (sample, window, token)"
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding: positions that are made together have one cause."""
        for each in uncounted(experiment):
            if self._is_short(each):
                yield self._finding(each)
                return

    def _is_short(self, each: Uncounted) -> bool:
        first, later = each.total(False), each.total(True)
        told = later.moved - later.as_named
        if told >= self.labels and later.moved >= self.gain * later.as_named:
            return True
        if later.as_named >= self.least and later.as_named >= later.moved:
            return False
        expected = first.count / each.width
        chance = later.count / each.width
        by_heads = self.least <= later.heads <= self.crowd * chance
        return by_heads and first.heads == 0 and expected >= self.least

    def _finding(self, each: Uncounted) -> Finding:
        first, later = each.total(False), each.total(True)
        what = "what picks tokens" if each.key is None else f"`{each.key}`"
        words = [
            f"{later.heads} of its {later.count} positions in later windows name id {each.head}, "
            f"which each window begins with, and {first.heads} of {first.count} do in the first"
        ]
        if later.moved > later.as_named:
            words.append(
                f"tokens of the first window tell `{each.labels}` of {later.moved} of "
                f"{later.looked} in later ones at the place so many tokens on as windows stand "
                f"before, and of {later.as_named} at the position itself"
            )
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{what} names tokens of `{each.of}`, windows of {each.width} laid end to end, "
            f"and does not count id {each.head} of the later windows: it is 0 places short in the "
            "first, 1 in the second, 2 in the third, a jump wherever a window begins; "
            + "; ".join(words)
            + ".",
            fix="Add the number of windows before it to a position: what each begins with is a "
            f"token too, `flat = p + 1 + p // {each.width - 1}`.",
            site=each.site if each.key is None else "<data>",
            phase="forward" if each.key is None else "data",
            source=each.line,
            evidence=(
                Evidence("positions that name what a later window begins with", later.heads, 0),
                Evidence("positions in later windows", later.count),
                Evidence("labels told so many tokens on", later.moved, None, f"of {later.looked}"),
                Evidence("labels told at the position", later.as_named),
            ),
        )
