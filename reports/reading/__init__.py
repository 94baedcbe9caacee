"""What a run folder holds, read into the plain data that figures draw."""

from __future__ import annotations
