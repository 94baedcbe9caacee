"""The page of a run that has something to say."""

from __future__ import annotations

import warnings
from pathlib import Path


def render_or_warn(folder: Path) -> None:
    """The folder holds its report, or a warning says why not."""
    from reports import render

    try:
        render(folder)
    except Exception as error:  # the record is whole, and the loop's own error must not be hidden
        warnings.warn(f"`{folder}` has no report: {type(error).__name__}: {error}", stacklevel=3)
