"""Stages of a pipeline: whether what is not finite at one of them came from its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch import Tensor

from nan_watch.flags import Sightings
from nan_watch.inquest.captured import Captured
from nan_watch.ranks import Ranks
from probes.bus import Bus, Kind
from probes.replay import is_finite

TRIES = "_forward_metadata_inference"  # a pass of torch's own, over memory that nobody has written


class Stages:
    """Knows the stages that this rank holds; passes by which torch learns shapes are not shown."""

    def __init__(self, ranks: Ranks, bus: Bus, captured: Captured) -> None:
        self._ranks = ranks
        self._bus = bus
        self._captured = captured
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        """The passes of its stages are told apart."""
        for stage in self._ranks.stages:
            own = getattr(stage, TRIES, None)
            if own is not None:
                setattr(stage, TRIES, self._unseen(own))
                self._hooks.callback(delattr, stage, TRIES)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """They are as they were."""
        self._hooks.close()

    def begins(self, otherwise: bool, sightings: Sightings) -> bool:
        """Whether what is not finite began at this rank; otherwise: where there is no pipeline.

        The device is read: it is called where a step is poisoned.
        """
        if not self._ranks.staged:
            return otherwise
        given = [tensor for call in self._captured.known for _, tensor, _ in call.given]
        if not all(map(_is_fine, given)):
            return False
        if any(stage.is_last for stage in self._ranks.stages):  # its gradients are its own loss's
            return True
        grads = [grad for call in self._captured.known for grad in call.kept_grads().values()]
        return all(map(_is_fine, grads)) or self._any_output_odd(sightings)

    def _any_output_odd(self, seen: Sightings) -> bool:
        odd = np.isnan(seen.low) | np.isposinf(seen.high)
        return any(self._bus.sites[number].kind is Kind.OUTPUT for number in seen.numbers[odd])

    def _unseen(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def inference(*args: Any, **kwargs: Any) -> Any:
            listening, self._bus.listening = self._bus.listening, False
            try:
                return own(*args, **kwargs)
            finally:
                self._bus.listening = listening

        return inference


def _is_fine(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or is_finite(tensor)
