"""SQL as a sequence of steps, each a keyword or a unit of the database."""

from __future__ import annotations

from collections.abc import Iterable

# fmt: off
KEYWORDS: tuple[str, ...] = (
    "_UNK", "_EOS",
    "select", "value", "(", ")", "where", "=", ",", "count", "group_by", "order_by", "limit_value",
    ">", "<", "!=", "desc", "asc", "distinct", "and", "or", "not", "in", "like", "between", "is",
    "having", "avg", "max", "min", "sum", "except", "intersect", "union", "-", "+", "/",
)
# fmt: on
"""Everything a step can be besides a unit; `>=` is the two steps `>` `=`, as EditSQL writes it.

All but `/` and `is` occur in SParC as EditSQL prepared it.
"""


def show(steps: Iterable[str]) -> str:
    """The steps as one line of text, joined by spaces."""
    return " ".join(steps)
