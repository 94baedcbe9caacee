"""The one error that means: what was asked for cannot be done."""

from __future__ import annotations


class RequestError(ValueError):
    """The request was wrong.

    Its message names the thing in backticks, what was found, what was expected and what to do;
    the command prints it as it stands and exits with status 2.
    """


def demand_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """The value is one of those that are known. Raises RequestError where it is not."""
    if value not in known:
        raise RequestError(
            f"`{name}` is {value!r}, which is none of {', '.join(known)}: choose one of them."
        )
