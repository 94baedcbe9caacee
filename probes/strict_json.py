"""JSON that any parser reads: a number that is not finite becomes null and says which it was."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def encode(value: Any) -> Any:
    """The value with every mapping's non-finite number as null, its name under `nonfinite`.

    `{"value": nan}` becomes `{"value": null, "nonfinite": "nan"}`; in a list it becomes the
    string "nan", "inf" or "-inf", since a list has no place for a second key.
    """
    if isinstance(value, Mapping):
        plain = {str(key): _plain(item) for key, item in value.items()}
        out = {key: None if _is_odd(item) else encode(item) for key, item in plain.items()}
        odd = [str(item) for item in plain.values() if _is_odd(item)]
        return out | ({"nonfinite": odd[0]} if odd else {})
    if isinstance(value, (list, tuple, set, frozenset)):
        return [encode(item) for item in value]
    value = _plain(value)
    if _is_odd(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def _plain(value: Any) -> Any:
    """A numpy or torch scalar as Python's; all else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def _is_odd(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def dumps(value: Any) -> str:
    """Strict JSON, keys in the order given, two spaces deep, with a newline at its end."""
    return json.dumps(encode(value), allow_nan=False, indent=2, ensure_ascii=False) + "\n"


def write(path: Path, value: Any) -> None:
    """The file holds the value whole, or what it held before: never half of it."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(dumps(value), encoding="utf-8")
    fresh.replace(path)
