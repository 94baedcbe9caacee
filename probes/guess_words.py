"""What a guess takes for granted, in words: read from the line that would declare it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Any

MEANS = {
    "keep": "`{key}` is 1, or true, where a position is no padding",
    "hide": "`{key}` is true where a position is padding",
    "length": "`{key}` counts the positions of a row that are no padding",
    "id": "0 in `{key}` is padding",
}


def in_words(lines: Iterable[str]) -> str:
    """`that 0 in `ids` is padding`, of `masks=(Mask('ids', means='id'),)`."""
    told = [words for line in lines for words in _of_line(line)]
    return ", and ".join(dict.fromkeys(told))


def _of_line(line: str) -> Iterator[str]:
    call = ast.parse(f"Layout({line})", mode="eval").body
    assert isinstance(call, ast.Call)
    for keyword in call.keywords:
        if isinstance(keyword.value, ast.Dict):
            for key, names in ast.literal_eval(keyword.value).items():
                yield f"that the axes of `{key}` are {', '.join(names)}"
        elif isinstance(keyword.value, ast.Tuple):
            for part in keyword.value.elts:
                if isinstance(part, ast.Call):
                    yield _of_part(keyword.arg or "", part)


def _of_part(field: str, part: ast.Call) -> str:
    first, second = [*map(_value, part.args), None, None][:2]
    named = {each.arg: _value(each.value) for each in part.keywords}
    if field == "masks":
        return "that " + MEANS[named.get("means") or "keep"].format(key=named.get("key", first))
    if field == "labels":
        return f"that `{first}` holds the labels of `{named.get('output', second)}`"
    if field == "reads":
        return f"what `{first}` may read of `{named.get('of', second)}`"
    return f"how the state of `{first}` is meant to go on"


def _value(node: ast.expr) -> Any:
    return ast.literal_eval(node)
