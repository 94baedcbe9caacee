"""How the spans that are read lie to those that are declared: the pattern and its words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 0.8  # of the units: a pattern holds from so many on


@dataclass(frozen=True)
class Misread:
    """Units that read other tokens than they should.

    wrong: (k,) indices of these units, among the `looked` that were looked at. pattern: its words,
    none where nothing holds for most of them. by: tokens between declared and read, if constant.
    """

    wrong: Tensor
    looked: int
    pattern: str
    by: int | None = None


@dataclass(frozen=True)
class Pairs:
    """Declared and read spans of the units that were looked at, in order.

    places: (k, lead) coordinates. declared, read: (k, token) boolean.
    """

    places: Tensor
    declared: Tensor
    read: Tensor

    @property
    def low(self) -> Tensor:
        """(k,) how many tokens after its declared start a unit begins to read."""
        return first(self.read) - first(self.declared)

    @property
    def high(self) -> Tensor:
        """(k,) how many tokens after its declared end a unit stops reading."""
        return last(self.read) - last(self.declared)

    @property
    def wrong(self) -> Tensor:
        """(k,) boolean: it reads what is not its own, or neither start nor end of its own."""
        strange = (self.read & ~self.declared).any(1)
        return strange | ~(self.read & self.declared).any(1)


def first(tokens: Tensor) -> Tensor:
    """The first true place of each row."""
    return tokens.to(torch.int64).argmax(-1)


def last(tokens: Tensor) -> Tensor:
    """The last true place of each row."""
    return tokens.shape[-1] - 1 - tokens.flip(-1).to(torch.int64).argmax(-1)


def misread(pairs: Pairs, what: str = "token") -> Misread | None:
    """What is wrong with most units, or with some; None where each reads within its span.

    That no unit reads the end of its span, or its start, is wrong too. what: how what is read
    is called.
    """
    wrong = pairs.wrong
    if not bool(wrong.any()):
        return _short(pairs)
    for pattern in PATTERNS:
        found = pattern(pairs)
        if found is not None:
            words, by = found
            if what != "token":
                words = (
                    words.partition(":")[0].replace("token", what).replace("its span", "its own")
                )
            return Misread(wrong.nonzero().flatten(), len(wrong), words, by)
    return Misread(wrong.nonzero().flatten(), len(wrong), "by no single pattern")


Pattern = Callable[[Pairs], tuple[str, int | None] | None]


def _short(pairs: Pairs) -> Misread | None:
    """No unit of two tokens or more reads its last one, or its first, but all read all others."""
    long = pairs.declared.sum(1) > 1
    if int(long.sum()) < 3:
        return None
    rows = long.nonzero().flatten()
    for side, gaps in (("last", pairs.high[long]), ("first", pairs.low[long])):
        if _share(gaps != 0) == 1.0 and len(gaps.unique()) == 1:
            by = int(gaps[0])
            more = pairs.declared[long].sum(1) > 2
            full = pairs.read[long].sum(1) == pairs.declared[long].sum(1) - abs(by)
            if bool(more.any()) and bool(full.all()):
                words = f"no unit reads the {side} token of its span"
                return Misread(rows, len(long), words, by)
    return None


def _everything(pairs: Pairs) -> tuple[str, None] | None:
    width = pairs.read.sum(1)
    if len(width) < 2 or not bool((pairs.declared.sum(1) < width.min()).any()):
        return None
    same = (pairs.read == pairs.read[:1]).all(1)
    places = (pairs.declared == pairs.declared[:1]).all(1)
    if bool(same.all()) and not bool(places.all()):
        return "all units read the same tokens, whatever their spans", None
    return None


def _constant(pairs: Pairs) -> tuple[str, int] | None:
    low, high = pairs.low, pairs.high
    by, times = Counter(low.tolist()).most_common(1)[0]
    if by == 0 or times < MOST * len(low) or _share(high == by) < MOST:
        return None
    why = "a special token that is not counted, or counted twice" if abs(by) == 1 else "a shift"
    return f"every unit reads {_words(by)} its span: {why}", by


def _single(pairs: Pairs) -> tuple[str, int] | None:
    """Each reads one token of a longer span, beside its start or its end."""
    if not bool((pairs.read.sum(1) == 1).all()) or not bool((pairs.declared.sum(1) > 1).any()):
        return None
    ends = last(pairs.read) - last(pairs.declared)
    for side, gaps in (("start", pairs.low), ("end", ends)):
        by, times = Counter(gaps.tolist()).most_common(1)[0]
        if by and times == len(gaps):
            words = f"every unit reads one token, {_words(by)} the {side} of its span"
            return words + (": the first of the next one" if _is_next(pairs) else ""), by
    return None


def _is_next(pairs: Pairs) -> bool:
    """Whether most units read just what the next one begins with."""
    starts, rows = first(pairs.declared), pairs.places[:, :-1]
    same_row = (rows[1:] == rows[:-1]).all(1)
    hits = (first(pairs.read)[:-1] == starts[1:])[same_row]
    return len(hits) > 0 and _share(hits) >= MOST


def _edge(pairs: Pairs) -> tuple[str, int] | None:
    for side, one, other in (("end", pairs.high, pairs.low), ("start", pairs.low, pairs.high)):
        by, times = Counter(one.tolist()).most_common(1)[0]
        if by and times >= MOST * len(one) and _share(other == 0) >= MOST:
            how = f"{abs(by)} token{'s' if abs(by) > 1 else ''} {'after' if by > 0 else 'before'}"
            return f"the {side} of every span is read {how} where it is declared", by
    return None


def _other_unit(pairs: Pairs) -> tuple[str, None] | None:
    """Every unit reads the whole span of the unit so many further on, in its own row."""
    ahead: Counter[int] = Counter()
    rows = pairs.places[:, :-1]
    order = pairs.places[:, -1]
    for k in range(len(order)):
        row = (rows == rows[k]).all(1)
        alike = row & (pairs.declared == pairs.read[k]).all(1)
        ahead.update({int(order[m]) - int(order[k]) for m in alike.nonzero().flatten()})
    ahead.pop(0, None)
    if not ahead:
        return None
    by, times = ahead.most_common(1)[0]
    heads = int(pairs.wrong.sum())
    if times < 3 or times < MOST * 0.8 * heads:
        return None
    which = "next" if by == 1 else "previous" if by == -1 else f"unit {by:+d}"
    return f"unit j reads the span of the {which} one: {_j(by)}", None


def _j(by: int) -> str:
    return f"unit j{by:+d}"


def _growing(pairs: Pairs) -> tuple[str, None] | None:
    unit, low = pairs.places[:, -1], pairs.low
    if pairs.places.shape[1] < 2 or len(unit.unique()) < 3:
        return None
    for step in (1, -1, 2, -2):
        rest = low - step * unit
        start, times = Counter(rest.tolist()).most_common(1)[0]
        if times >= MOST * len(low):
            return (
                f"the offset grows by {step} a unit, from {start}: a separator between units "
                "that is not counted, or counted twice",
                None,
            )
    return None


def _jump(pairs: Pairs) -> tuple[str, None] | None:
    """The offset is nought up to some place, and one number from there on."""
    low, start = pairs.low, first(pairs.declared)
    known = sorted(set(low.tolist()), key=abs)
    if len(known) < 2 or known[0] != 0:
        return None
    border = int(start[low != 0].min())
    later = low[start >= border]
    by, times = Counter(later.tolist()).most_common(1)[0]
    early = low[start < border]
    if by == 0 or times < MOST * len(later) or len(later) < 2 or not len(early):
        return None
    return f"from token {border} on spans are read {_words(by)} their place: a border", None


def _beyond(pairs: Pairs) -> tuple[str, None] | None:
    """They read their spans and more, on both sides."""
    own = (pairs.read & pairs.declared).sum(1) == pairs.declared.sum(1)
    if _share(own) == 1.0:
        more = float((pairs.read & ~pairs.declared).sum(1).float().mean())
        return f"units read their spans and {more:.1f} other tokens each", None
    return None


PATTERNS: tuple[Pattern, ...] = (
    _everything,
    _constant,
    _other_unit,
    _growing,
    _single,
    _edge,
    _jump,
    _beyond,
)


def _words(by: int) -> str:
    return f"{abs(by)} token{'s' if abs(by) > 1 else ''} {'after' if by > 0 else 'before'}"


def _share(true: Tensor) -> float:
    return float(true.float().mean())
