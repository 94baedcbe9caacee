"""Command-line options made from the fields of a dataclass, so that none is typed by hand."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

Command = Callable[..., None]
_NOTE = re.compile(r"^    (\w+):.*?#\s*(.*)$", re.MULTILINE)
_TRUTH = {"true": True, "false": False}


def takes_fields_of(settings: type, into: str, panel: str) -> Callable[[Command], Command]:
    """The command has one option a field; those that were given reach its argument `into`.

    That is a mapping of field to value; a field that was not given is not in it. The comment
    beside a field is its option's help, under the heading `panel`.
    """
    hints = get_type_hints(settings)
    notes = dict(_NOTE.findall(inspect.getsource(settings)))
    extra = [
        _option(each, hints[each.name], notes.get(each.name, ""), panel)
        for each in fields(settings)
    ]
    names = {each.name for each in fields(settings)}

    def extend(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        kept = [each for name, each in own.parameters.items() if name != into]

        @wraps(command)
        def extended(*args: Any, **given: Any) -> None:
            found = {key: value for key, value in given.items() if value is not None}
            changes = {key: value.it for key, value in found.items() if key in names}
            rest = {key: value for key, value in given.items() if key not in names}
            command(*args, **rest, **{into: changes})

        extended.__signature__ = own.replace(parameters=[*kept, *extra])  # type: ignore[attr-defined]
        extended.__annotations__ = {each.name: each.annotation for each in [*kept, *extra]}
        return extended

    return extend


class Given:
    """A value that was given on the command line, which may be None itself."""

    def __init__(self, it: object) -> None:
        self.it = it


def _option(each: Field[Any], hint: Any, note: str, panel: str) -> inspect.Parameter:
    def parse(text: str | Given) -> Given:
        return text if isinstance(text, Given) else Given(value_of(hint, text))

    made = typer.Option(
        f"--{each.name}",
        parser=parse,
        metavar=form_of(hint),
        help=f"{_sentence(note)}Default: {_default(each)}.",
        show_default=False,
        rich_help_panel=panel,
    )
    kind = inspect.Parameter.KEYWORD_ONLY
    annotation = Annotated[Given | None, made]
    return inspect.Parameter(each.name, kind, default=None, annotation=annotation)


def _sentence(note: str) -> str:
    return f"{note[0].upper()}{note[1:].rstrip('.')}. " if note else ""


def _default(each: Field[Any]) -> str:
    made = each.default_factory() if each.default_factory is not MISSING else each.default
    return "none" if made is None else str(made).lower() if isinstance(made, bool) else str(made)


def value_of(hint: Any, text: str) -> Any:
    """The text as a value of the type: bool, int, float, str, Literal, or one of these or None.

    Raises ValueError that says what was expected.
    """
    kinds = _kinds(hint)
    if NoneType in kinds and text.lower() == "none":
        return None
    for kind in kinds:
        try:
            return _as(kind, text)
        except (ValueError, KeyError):
            continue
    raise ValueError(f"`{text}` is not one of {form_of(hint)}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _as(kind: Any, text: str) -> Any:
    if kind is bool:
        return _TRUTH[text.lower()]
    if get_origin(kind) is Literal:
        return {str(choice): choice for choice in get_args(kind)}[text]
    if kind in (int, float, str):
        return kind(text)
    raise ValueError(f"{kind} cannot be read")


def form_of(hint: Any) -> str:
    """The type in words for a person: `true|false`, `sum|key|db`, `int|none`."""
    return "|".join(_form(kind) for kind in _kinds(hint))


def _form(kind: Any) -> str:
    if kind is bool:
        return "true|false"
    if kind is NoneType:
        return "none"
    if get_origin(kind) is Literal:
        return "|".join(str(choice) for choice in get_args(kind))
    return str(kind.__name__)
