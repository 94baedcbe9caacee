"""A run folder in, one self-contained HTML file out.

from reports import render
render(Path("runs/Nov22_15-59-28_host"))
"""

from __future__ import annotations

from probes.sisters import check_sisters

check_sisters()

from reports.render import render  # noqa: E402  # after the strangers were told

__all__ = ["render"]
