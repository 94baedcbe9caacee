"""Active checks, one a file, in reading order."""

from __future__ import annotations

from probes.finding import Check
from probes.subject import Subject

RULES: tuple[Check[Subject], ...] = ()
