"""The one error that means: what was asked for cannot be done."""

from __future__ import annotations


class RequestError(ValueError):
    """The request was wrong.

    Its message names the thing in backticks, what was found, what was expected and what to do;
    the command prints it as it stands and exits with status 2.
    """
