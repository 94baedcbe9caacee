"""Trainers of other people's frameworks, each imported only where it is used.

`nan_watch.adapters.transformers` and `.lightning`. A plain loop needs none, and what Accelerate
has prepared goes into `NanWatch` as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

from probes.subject import Subject

FRAMEWORKS = ("transformers", "lightning", "pytorch_lightning")


def subject_of(found: object) -> Subject | None:
    """The subject of a framework's trainer; None where it is no trainer that is known here."""
    adapters = {"pytorch_lightning": "lightning"}
    for framework in FRAMEWORKS:
        if framework in sys.modules:
            adapter = import_module(f"{__name__}.{adapters.get(framework, framework)}")
            made: Subject | None = adapter.subject_of(found)
            if made is not None:
                return made
    return None


SUBJECTS: tuple[Callable[[object], Subject | None], ...] = (subject_of,)
