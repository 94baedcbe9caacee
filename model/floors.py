"""What a predictor reaches that never reads an utterance: floors for the accuracies.

Under the gold prefix it says the keyword, or that it is a unit, which most often followed the
last three steps in the training queries. A unit is the one in the same place among the units of
the query before, else the last one of this query, else `*`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from model.linearise import KEYWORDS
from model.read import Interaction
from probes.subject import Ratio

UNIT, START = "<unit>", "<start>"
CONTEXT = 3
_KNOWN = frozenset(KEYWORDS)

Context = tuple[str, ...]


def floors(training: Iterable[Interaction], measured: Iterable[Interaction]) -> dict[str, Ratio]:
    """`token`, `string`, `key` and `db` as the metrics of these names count them.

    For key and db it is known, as the gold steps there are, which of both a step is.
    """
    follow = _counted(training)
    either = {context: counts.most_common(1)[0][0] for context, counts in follow.items()}
    keyword = {context: _likeliest_keyword(counts) for context, counts in follow.items()}
    token = string = 0.0
    key, db = Counter[bool](), Counter[bool]()
    queries = 0
    for steps, guesses in _queries(measured):
        right = []
        for j, (gold, unit) in enumerate(zip(steps, guesses, strict=True)):
            context = _context(steps, j)
            likeliest = either.get(context)
            right.append(gold == (unit if likeliest == UNIT else likeliest))
            if gold in _KNOWN:
                key[gold == keyword.get(context)] += 1
            else:
                db[gold == unit] += 1
        token += sum(right) / len(right)
        string += all(right)
        queries += 1
    whole = {"token": Ratio(token, queries), "string": Ratio(string, queries)}
    return whole | {"key": Ratio(key[True], key.total()), "db": Ratio(db[True], db.total())}


def _counted(training: Iterable[Interaction]) -> Mapping[Context, Counter[str]]:
    """How often each keyword, or a unit, followed each context."""
    found: dict[Context, Counter[str]] = defaultdict(Counter)
    for steps, _ in _queries(training):
        for j, step in enumerate(steps):
            found[_context(steps, j)][_class(step)] += 1
    return found


def _likeliest_keyword(counts: Counter[str]) -> str | None:
    return next((word for word, _ in counts.most_common() if word != UNIT), None)


def _queries(interactions: Iterable[Interaction]) -> Iterator[tuple[Sequence[str], list[str]]]:
    """Each query's steps, `_EOS` too, and the unit that would be guessed at each of them."""
    for each in interactions:
        before: Sequence[str] = ()
        for turn in each.turns:
            steps = (*turn.steps, "_EOS")
            yield steps, _guesses(steps, [step for step in before if step not in _KNOWN])
            before = steps


def _guesses(steps: Sequence[str], before: Sequence[str]) -> list[str]:
    units: list[str] = []
    guesses = []
    for step in steps:
        place = len(units)
        guesses.append(before[place] if place < len(before) else units[-1] if units else "*")
        if step not in _KNOWN:
            units.append(step)
    return guesses


def _context(steps: Sequence[str], j: int) -> Context:
    last = [_class(step) for step in steps[max(0, j - CONTEXT) : j]]
    return (*[START] * (CONTEXT - len(last)), *last)


def _class(step: str) -> str:
    return step if step in _KNOWN else UNIT
