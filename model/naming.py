"""Which units an utterance names: words that the two have in common."""

from __future__ import annotations

import re

WORD = re.compile(r"[a-z0-9]+")
NAMINGS = 6
"""How `naming` tells units apart: 3 * whether their table is named + how far they are."""


def stems(text: str) -> frozenset[str]:
    """The words of a text in lower case, those of one letter left out, without a plural's ending.

    "Cities' names" -> city, name
    """
    return frozenset(_stem(word) for word in WORD.findall(text.lower()) if len(word) > 1)


def _stem(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        return word[:-1]
    return word


def naming(unit: str, said: frozenset[str]) -> int:
    """0, 1 or 2: none, some or all words of a column are said; 3 more where its table's are.

    Of `table.*` and `*` the column has no words, so it is 0 or 3.
    """
    table, _, column = unit.replace("_", " ").rpartition(".")
    own, owner = stems(column), stems(table)
    named = 0 if not own & said else 2 if own <= said else 1
    return named + 3 * bool(owner & said)
