"""A run folder in, one self-contained HTML file out.

from reports import render, show
render(Path("runs/Nov22_15-59-28_host"))
show("runs/Nov22_15-59-28_host")   # in a notebook
"""

from __future__ import annotations

from probes.sisters import check_sisters

check_sisters()

from reports.display import show  # noqa: E402  # after the strangers were told
from reports.render import render  # noqa: E402

__all__ = ["render", "show"]
