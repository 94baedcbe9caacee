"""The first step of a subject, where what goes wrong in it is for the watch to tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

from probes.errors import RequestError
from probes.first_step import FirstStep, check_first_step
from probes.nested import tensors_in
from probes.operator_mode import OperatorMode
from probes.raised import is_out_of_memory
from probes.subject import Subject


def first_step(subject: Subject) -> FirstStep | None:
    """What `check_first_step` showed; None where it ran out of memory, or raised after a NaN.

    A watched step then tells of either. Raises RequestError for all else, as that does.
    """
    try:
        return check_first_step(subject)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    except RequestError as error:
        if error.__cause__ is None or not _meets_nan(lambda: check_first_step(subject)):
            raise
    return None


def _meets_nan(run: Callable[[], Any]) -> bool:
    """Whether an operator gives a NaN in it before it ends, or raises."""
    looking = _Looking()
    with suppress(Exception), looking:
        run()
    return looking.found


class _Looking(OperatorMode):
    """Remembers whether any operator gave a NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The operator has run."""
        out = func(*args, **(kwargs or {}))
        if not self.found:
            floats = (t for t in tensors_in(out) if t.is_floating_point() and not t.is_meta)
            self.found = any(bool(torch.isnan(each).any()) for each in floats)
        return out
