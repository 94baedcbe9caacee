"""What a watch says of a page that cannot be drawn."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from nan_watch.page import render_or_warn


def test_a_page_that_cannot_be_drawn_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="`.*gone` has no report"):
        render_or_warn(tmp_path / "gone")


def test_where_warnings_are_errors_it_takes_the_place_of_no_other(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        render_or_warn(tmp_path / "gone")
