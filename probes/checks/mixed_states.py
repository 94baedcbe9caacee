"""STA005: a state is read where another belongs: h for c, another layer's, a step too old."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.states.recurrence import Call, Recurrent, equal

Pair = tuple[Call, Call]


@dataclass(frozen=True, slots=True)
class MixedStates:
    """A recurrent module starts from a state that is, to the bit, another one than its own.

    Looked for in one forward pass: an LSTM whose h was the c that the call before gave and the
    other way round, or both of which were h; an initial state of which the same is true; a cell
    that starts from the state of another cell, which carries it on itself; a cell of an upper
    layer that reads what the lower one gave a step ago, though that has run since.

    Sick: `c, h = cell(x, (h, c))`.
    Healthy: `h, c = cell(x, (h, c))`.
    """

    fewest: int = 2  # calls

    code: ClassVar[str] = "STA005"
    rule: ClassVar[str] = "states-mixed-up"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A recurrent module that is called."""
        return None if experiment.recurrent else "no recurrent module is called"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a module."""
        found = experiment.recurrent
        for each in found:
            steps = [pair for calls in each.groups() for pair in pairwise(calls)]
            told = (
                self._swapped(each, steps)
                or self._started(each, found)
                or self._others(each, steps, found)
                or self._stale(each, found)
            )
            if told is not None:
                yield told

    def _swapped(self, each: Recurrent, steps: Sequence[Pair]) -> Finding | None:
        if each.parts != 2:
            return None
        if self._all(steps, _is_crossed):
            return self._said(
                each,
                steps[0][1],
                Verdict.FAIL,
                f"`{each.site}` is given its hidden and cell state swapped: in {len(steps)} calls "
                "h is the c, and c the h, that the call before gave.",
                "An LSTM returns and takes `(h, c)`: keep that order.",
                len(steps),
            )
        if self._all(steps, _is_doubled):
            return self._said(
                each,
                steps[0][1],
                Verdict.WARN,
                f"`{each.site}` loses its cell state: in {len(steps)} calls it is given the h that "
                "the call before gave as h and as c.",
                "Give it `(h, c)` as it returned them.",
                len(steps),
            )
        return None

    def _started(self, each: Recurrent, found: Sequence[Recurrent]) -> Finding | None:
        """The first call starts from another LSTM's final state, crossed over."""
        for group in each.groups() if each.parts == 2 else []:
            for other in found:
                if other.site == each.site or other.parts != 2:
                    continue
                if any(_is_crossed((call, group[0])) for call in other.calls):
                    return self._said(
                        each,
                        group[0],
                        Verdict.FAIL,
                        f"`{each.site}` starts from the state of `{other.site}` with hidden and "
                        "cell state swapped.",
                        "An LSTM returns and takes `(h, c)`: keep that order.",
                        1,
                    )
        return None

    def _others(
        self, each: Recurrent, steps: Sequence[Pair], found: Sequence[Recurrent]
    ) -> Finding | None:
        """Its state is that of a cell that carries it on itself; its own is lost."""
        if not each.is_step or self._any(steps, lambda pair: _is_own(each, pair)):
            return None
        for other in found:
            theirs = [pair for calls in other.groups() for pair in pairwise(calls)]
            if other.site == each.site or not other.is_step or len(theirs) != len(steps):
                continue
            if self._all(theirs, lambda pair, of=other: _is_own(of, pair)) and all(  # type: ignore[misc]
                _is_lent(other, old, new, two)
                for (old, new), (_, two) in zip(theirs, steps, strict=True)
            ):
                return self._said(
                    each,
                    steps[0][1],
                    Verdict.WARN,
                    f"`{each.site}` starts each step from the state of `{other.site}`, which "
                    "carries it on itself: what it gave is never its own state.",
                    f"Give `{each.site}` the state that it returned.",
                    len(steps),
                )
        return None

    def _stale(self, each: Recurrent, found: Sequence[Recurrent]) -> Finding | None:
        """It reads what a cell before it gave in the step before, and not in this one."""
        for below in found:
            pairs = list(zip(below.groups(), each.groups(), strict=False))
            if below.site == each.site or not (below.is_step and each.is_step):
                continue
            for lower, upper in pairs:
                if len(lower) != len(upper) or not _alternate(lower, upper):
                    continue
                late = [
                    any(equal(two.x, gave.value) for gave in old.gave)
                    and not any(equal(two.x, gave.value) for gave in new.gave)
                    for (old, new), two in zip(pairwise(lower), upper[1:], strict=True)
                ]
                if len(late) >= self.fewest and all(late):
                    return self._said(
                        each,
                        upper[1],
                        Verdict.WARN,
                        f"`{each.site}` reads what `{below.site}` gave a step ago: that has run "
                        "before it in the same step, and its new output is passed over.",
                        f"Give `{each.site}` what `{below.site}` returned in this step.",
                        len(late),
                    )
        return None

    def _all(self, steps: Sequence[Pair], so: Callable[[Pair], bool]) -> bool:
        return len(steps) >= self.fewest and all(map(so, steps))

    def _any(self, steps: Sequence[Pair], so: Callable[[Pair], bool]) -> bool:
        return len(steps) < self.fewest or any(map(so, steps))

    def _said(
        self, each: Recurrent, call: Call, verdict: Verdict, message: str, fix: str, count: int
    ) -> Finding:
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=message,
            fix=fix,
            site=each.site,
            phase="forward",
            source=call.source,
            evidence=(Evidence("calls of which it is so", count, 0),),
        )
        return finding if count < self.fewest else replace(finding, where={"time": 1})


def _is_crossed(pair: Pair) -> bool:
    one, two = pair
    if len(two.before) != 2:
        return False
    (h, c), (given_h, given_c) = one.after(2), two.before
    same = equal(h.value, c.value)
    return not same and equal(given_h.value, c.value) and equal(given_c.value, h.value)


def _is_doubled(pair: Pair) -> bool:
    one, two = pair
    if len(two.before) != 2:
        return False
    (h, c), (given_h, given_c) = one.after(2), two.before
    same = equal(h.value, c.value)
    return not same and equal(given_h.value, h.value) and equal(given_c.value, h.value)


def _is_own(each: Recurrent, pair: Pair) -> bool:
    """Whether it starts from what it gave before."""
    one, two = pair
    gave = one.after(each.parts)
    return bool(two.before) and all(
        equal(a.value, b.value) for a, b in zip(two.before, gave, strict=False)
    )


def _is_lent(other: Recurrent, old: Call, new: Call, two: Call) -> bool:
    """Whether the state is what the other started this step from, or gave before."""
    if not two.before:
        return False
    kept = [old.after(other.parts), new.before, new.after(other.parts)]
    return any(
        len(two.before) == len(parts)
        and all(equal(a.value, b.value) for a, b in zip(two.before, parts, strict=True))
        for parts in kept
    )


def _alternate(lower: Sequence[Call], upper: Sequence[Call]) -> bool:
    """Whether the lower one runs first in each step."""
    return all(
        one.order < two.order and (i + 1 == len(lower) or two.order < lower[i + 1].order)
        for i, (one, two) in enumerate(zip(lower, upper, strict=True))
    )
