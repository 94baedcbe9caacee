"""Which statements stand between two lines."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from textwrap import dedent
from types import CodeType

import pytest

from nan_watch.inquest.passage import Passage, passages

FILE = "<ipython-passage>"


@pytest.fixture
def between() -> Callable[[str, int, int], Passage | None]:
    def found(text: str, first: int, last: int) -> Passage | None:
        text = dedent(text).lstrip("\n")
        linecache.cache[FILE] = (len(text), None, text.splitlines(keepends=True), FILE)
        code = compile(text, FILE, "exec")
        inner = [each for each in code.co_consts if isinstance(each, CodeType)]
        return next(passages(inner[0] if inner else code, first, last), None)

    return found


LOOP = """
for batch in data:
    total = 0
    parts = []
    for part in batch:
        with cast:
            out = model(part)
        if out is None:
            continue
        total += loss(out)
    total.backward()
    step()
"""


@pytest.mark.parametrize(
    ("first", "last", "lines"),
    [(6, 10, "2 to 10"), (6, 9, "5 to 9"), (9, 6, None), (1, 10, None), (6, 99, None)],
)
def test_they_stand_in_the_innermost_block_of_both(
    between: Callable[..., Passage | None], first: int, last: int, lines: str | None
) -> None:
    found = between(LOOP, first, last)
    assert (str(found) if found else None) == (lines and f"lines {lines} of {FILE}")


def test_they_may_go_on_with_the_loop_that_they_stand_in(
    between: Callable[..., Passage | None],
) -> None:
    names = {"model": lambda _: None, "part": 1, "cast": __import__("contextlib").nullcontext()}
    found = between(LOOP, 6, 9)
    assert found is not None
    exec(found.code, names)
    assert "total" not in names


@pytest.mark.parametrize("middle", ["return out", "yield out", "nonlocal_ = yield"])
def test_none_where_they_leave_their_function(
    between: Callable[..., Passage | None], middle: str
) -> None:
    text = f"""
    def step(x):
        out = model(x)
        if out is None:
            {middle}
        out.backward()
    """
    assert between(text, 2, 5) is None
    assert between(text, 2, 2) is not None


def test_a_file_that_is_not_there_has_none() -> None:
    assert not list(passages(compile("a = 1", "<ipython-nowhere>", "exec"), 1, 1))
