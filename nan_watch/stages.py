"""Stages of a pipeline: whether what is not finite at one of them came from its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch import Tensor

from nan_watch.flags import Sightings
from nan_watch.inquest.captured import Call, OfPart
from nan_watch.inquest.replays import Replays
from nan_watch.ranks import Ranks
from nan_watch.state import Poisoned
from probes.bus import Bus, Kind
from probes.replay import is_finite
from probes.wrapped import innermost

TRIES = "_forward_metadata_inference"  # a pass of torch's own, over memory that nobody has written


class Stages:
    """Knows the stages that this rank holds; passes by which torch learns shapes are not shown."""

    def __init__(self, ranks: Ranks, bus: Bus, replays: Replays) -> None:
        self._ranks = ranks
        self._bus = bus
        self._replays = replays
        self._captured = replays.captured
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        """The passes of its stages are told apart; each is heard of where it is called by itself.

        It comes before the bus, whose hooks are put on what is called.
        """
        for stage in self._ranks.stages:
            own = getattr(stage, TRIES, None)
            if own is not None:
                setattr(stage, TRIES, self._unseen(own))
                self._hooks.callback(delattr, stage, TRIES)
        parts = [innermost(stage.submod) for stage in self._ranks.stages]
        if self._bus.told_of and any(part is not self._bus.called for part in parts):
            self._bus.told_of = [(part, OfPart(self._captured, part)) for part in parts]
            self._ranks.tells_stages = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """They are as they were."""
        self._hooks.close()

    def begins(self, otherwise: bool, seen: Sightings, grads: Sequence[Poisoned]) -> bool:
        """Whether what is not finite began at this rank.

        otherwise: whether the loss is not finite here. grads: gradients that are not.
        The device is read: it is called where a step is poisoned.
        """
        if not self._ranks.staged:
            mine = self._ranks.several and self._replays.at_fault(grads, self._bus)
            return otherwise or seen.any_nan or mine
        if not self._ranks.tells_stages:
            last = any(stage.is_last for stage in self._ranks.stages)
            return _begins(self._captured.known, last, self._any_output_odd(seen, ""))
        names = {id(each): name for name, each in self._bus.model.named_modules()}
        return any(
            self._begins_at(stage, names[id(innermost(stage.submod))], otherwise, seen, grads)
            for stage in self._ranks.stages
        )

    def _begins_at(
        self, stage: Any, name: str, otherwise: bool, seen: Sightings, grads: Sequence[Poisoned]
    ) -> bool:
        """Whether it is one of several stages where something is odd, and no other made it so."""
        output = self._any_output_odd(seen, name)
        here = output or any(_is_in(each.name, name) for each in grads)
        if not here and not (stage.is_last and otherwise):
            return False
        part = innermost(stage.submod)
        calls = [call for call in self._captured.known if call.of is part]
        return _begins(calls, stage.is_last, output)

    def _any_output_odd(self, seen: Sightings, name: str) -> bool:
        """Of the module of this name, or of one in it."""
        odd = np.isnan(seen.low) | np.isposinf(seen.high)
        sites = [self._bus.sites[number] for number in seen.numbers[odd]]
        return any(each.kind is Kind.OUTPUT and _is_in(each.name, name) for each in sites)

    def _unseen(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def inference(*args: Any, **kwargs: Any) -> Any:
            listening, self._bus.listening = self._bus.listening, False
            try:
                return own(*args, **kwargs)
            finally:
                self._bus.listening = listening

        return inference


def _begins(calls: Sequence[Call], is_last: bool, any_output_odd: bool) -> bool:
    """Whether what is odd at a stage came to be there, and neither of its inputs nor gradients."""
    if not all(_is_fine(tensor) for call in calls for _, tensor, _ in call.given):
        return False
    grads = [grad for call in calls for grad in call.kept_grads().values()]
    # the gradients of the last are its own loss's
    return is_last or any_output_odd or all(map(_is_fine, grads))


def _is_in(site: str, name: str) -> bool:
    return not name or site == name or site.startswith((f"{name}.", f"{name}["))


def _is_fine(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or is_finite(tensor)
