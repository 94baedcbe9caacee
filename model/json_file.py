"""JSON files of either shape, one document or several one after another."""

from __future__ import annotations

import json
import re
from pathlib import Path

from probes.errors import RequestError

_GAP = re.compile(r"\s*")


def documents(path: Path) -> list[object]:
    """Every JSON document of the file, in order; `json.load` would stop after the first.

    Raises `RequestError` where there is no such file, it is no text, or it breaks off.
    """
    text, decoder = _text(path), json.JSONDecoder()
    found: list[object] = []
    place = _gap(text, 0)
    while place < len(text):
        try:
            document, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise _broken(path, text, error, len(found)) from error
        found.append(document)
        place = _gap(text, end)
    return found


def _gap(text: str, place: int) -> int:
    match = _GAP.match(text, place)
    return match.end() if match else place


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = sorted(other.name for other in path.parent.glob("*.json"))
        there = f"that folder has {', '.join(beside)}" if beside else "no JSON file is there"
        raise RequestError(
            f"no such file `{path}`: expected a JSON file, {there}; correct the path"
        ) from None
    except OSError as error:
        raise RequestError(
            f"`{path}` cannot be read: {error.strerror}; expected a JSON file, give one"
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(
            f"`{path}` is no UTF-8 text: byte {error.start} is"
            f" 0x{error.object[error.start]:02x}; expected JSON, give such a file"
        ) from error


def _broken(path: Path, text: str, error: json.JSONDecodeError, whole: int) -> RequestError:
    ends = not text[error.pos :].strip() or error.msg.startswith("Unterminated string")
    what = "cut off" if ends else "broken"
    why = error.msg.lower().removesuffix(" starting at")
    return RequestError(
        f"`{path}` is {what} at line {error.lineno}, column {error.colno}"
        f" (character {error.pos} of {len(text)}): {why}, found after {whole} whole"
        " documents; expected JSON; get the whole file again"
    )
