"""Causes (NAN...): one a file, judged on what is known of a poisoned step."""

from __future__ import annotations

from nan_watch.causes.unknown_origin import UnknownOrigin
from nan_watch.symptom import Symptom
from probes.finding import Cause

RULES: tuple[Cause[Symptom], ...] = (UnknownOrigin(),)
