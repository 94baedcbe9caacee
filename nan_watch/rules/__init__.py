"""Gradient-health rules (GRD...): one rule a file, judged on the readings of a run."""

from __future__ import annotations

from typing import Any

from probes.finding import Health

RULES: tuple[Health[Any], ...] = ()
