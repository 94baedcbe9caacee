"""Capsules: all that it takes to see a refused step fail again, in safetensors and JSON alone."""

from __future__ import annotations

from nan_watch.capsule.content import Capsule
from nan_watch.capsule.folder import load, save

__all__ = ["Capsule", "load", "save"]
