"""From a symptom back to the birth that it came from, over a ledger's events.

A NaN's birth is an operator that wrote NaN and read none. Where it read an infinity that was
itself born, that birth is the culprit: an overflow, or an infinite derivative. An infinity that
is meant, as a mask's -inf is, is never one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from nan_watch.origin.events import LOGS, Event
from nan_watch.origin.held import Held

Kind = Callable[[Held], int]


def culprit(events: Sequence[Event], roots: Iterable[int]) -> tuple[Event, Event | None] | None:
    """The birth that the roots came from, and what fed it in the forward pass, where hidden.

    roots: the events that wrote the symptom. None where nothing was written to it.
    """
    found = _culprit(events, [events[root] for root in roots])
    if found is None:
        return None
    birth, hidden = found
    return birth, hidden or _own_forward(events, birth)


def _culprit(
    events: Sequence[Event], started: Sequence[Event]
) -> tuple[Event, Event | None] | None:
    poisoned = [event for event in started if event.held is not None and event.held.nan]
    if poisoned:
        return _of_nan(events, _earliest(_births(events, poisoned, _nan)))
    if not started:
        return None
    return _of_inf(events, started), None


def _of_nan(events: Sequence[Event], birth: Event) -> tuple[Event, Event | None]:
    fed = [events[w] for read in birth.reads if read.held.inf for w in read.writers]
    infinite = [e for e in _births(events, fed, _inf) if not (e.meant and _masks(e, birth))]
    if not infinite:
        if birth.phase == "backward" and (birth.node or "").startswith("Logsumexp"):
            return birth, None  # the value was meant; its own derivative is not finite
        return _over_nothing(events, fed) or birth, None
    feeder = _earliest(infinite)
    if birth.phase == "backward" and feeder.phase == "forward" and _is_own(feeder, birth):
        return birth, feeder  # the forward value was hidden; the step failed in the backward pass
    return feeder, None


def _over_nothing(events: Sequence[Event], fed: Sequence[Event]) -> Event | None:
    """The first logsumexp, on the way to what was fed, with nothing but -inf in a row."""
    found, seen, stack = [], set(), [event for event in fed if event.phase == "forward"]
    while stack:
        event = stack.pop()
        if event.index in seen or event.held is None:
            continue
        seen.add(event.index)
        if event.op == "aten.logsumexp":
            found.append(event)
        stack.extend(events[writer] for read in event.reads for writer in read.writers)
    return _earliest(found) if found else None


def _masks(meant: Event, birth: Event) -> bool:
    """A mask is added, or filled in; the log of a target that is multiplied is none."""
    return not (meant.op in LOGS and birth.op in ("aten.mul", "aten.mul_"))


def _of_inf(events: Sequence[Event], started: Sequence[Event]) -> Event:
    births = _births(events, started, _inf)
    unmeant = [event for event in births if not event.meant]
    if unmeant:
        return _earliest(unmeant)
    chain = [e for e in path(events, _earliest(births), started) if e.given is None]
    return next((event for event in chain if _narrows(event)), (chain or births)[-1])


def _narrows(event: Event) -> bool:
    """Whether a meant infinity was picked there, or nothing but it was left of a row."""
    if event.held is None or not event.reads:
        return False
    return event.held.total < max(read.held.total for read in event.reads)


def _own_forward(events: Sequence[Event], birth: Event) -> Event | None:
    """What the forward operator of a backward birth gave, where that was not finite either."""
    if birth.phase != "backward":
        return None
    own = (e for e in events if e.phase == "forward" and e.held and _is_own(e, birth))
    return next((event for event in own if event.place.source == birth.place.source), None)


def _is_own(forward: Event, backward: Event) -> bool:
    """Whether the one is the operator whose backward the other is."""
    return forward.sequence is not None and forward.sequence == backward.sequence


def _births(events: Sequence[Event], started: Iterable[Event], kind: Kind) -> list[Event]:
    """The events from which what is of the kind came, and that read none of it."""
    found: list[Event] = []
    seen: set[int] = set()
    stack = list(started)
    while stack:
        event = stack.pop()
        if event.index in seen or event.held is None or not kind(event.held):
            continue
        seen.add(event.index)
        reads = [read for read in event.reads if read.reaches and kind(read.held)]
        before = [events[w] for read in reads for w in read.writers]
        before = [each for each in before if each.held is not None and kind(each.held)]
        stack.extend(before)
        if not before or event.inf_born or event.nan_born:
            found.append(event)
    return found


def _earliest(events: Sequence[Event]) -> Event:
    return min(events, key=lambda event: (event.tick, event.index))


def path(events: Sequence[Event], first: Event, last: Iterable[Event]) -> list[Event]:
    """A chain from the first event, over the earliest that read it, to the nearest of the last."""
    after: dict[int, int | None] = {}
    queue: deque[tuple[int, int | None]] = deque((event.index, None) for event in last)
    while queue:
        index, child = queue.popleft()
        if index not in after:
            after[index] = child
            reads = [read for read in events[index].reads if read.reaches]
            queue.extend((w, index) for read in reads for w in read.writers)
    readers = [
        index for index in after if any(first.index in r.writers for r in events[index].reads)
    ]
    at: int | None = min(readers) if readers and after.get(first.index) is not None else None
    chain = [first]
    while at is not None:
        chain.append(events[at])
        at = after[at]
    return chain


def _nan(kinds: Held) -> int:
    return kinds.nan


def _inf(kinds: Held) -> int:
    return kinds.inf
