"""The schedules of a Lightning module, each at the pace that a fit steps it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from nan_watch.adapters.fitting import Fit
from nan_watch.adapters.installed import overrides
from nan_watch.adapters.stretched import FEWEST, spent_after
from probes.errors import RequestError
from probes.stepping.paced import Pace, Paced

LONGEST = 5000  # steps of a schedule that are looked at where nobody says how many there are

Told = Mapping[str, Any]


def settings_of(made: Any) -> tuple[list[Optimizer], list[Told]]:
    """Optimizers and schedules, as `configure_optimizers` tells them in one of its many forms."""
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], (list, tuple)):
        schedules = made[1] if isinstance(made[1], (list, tuple)) else [made[1]]
        return list(made[0]), [_told(each) for each in schedules]
    several = list(made) if isinstance(made, (list, tuple)) else [made]
    optimizers = [each["optimizer"] if isinstance(each, Mapping) else each for each in several]
    schedules = [
        each["lr_scheduler"]
        for each in several
        if isinstance(each, Mapping) and each.get("lr_scheduler") is not None
    ]
    return [each for each in optimizers if each is not None], [_told(each) for each in schedules]


def _told(found: Any) -> Told:
    return found if isinstance(found, Mapping) else {"scheduler": found}


def waits(told: Told) -> bool:
    """Whether it waits for a metric that is no better, and there is none in a diagnosis."""
    return isinstance(told["scheduler"], ReduceLROnPlateau) or bool(told.get("reduce_on_plateau"))


def hold_still(told: Told) -> None:
    """It goes on waiting, whoever steps it."""
    told["scheduler"].step = lambda *given, **named: None


class Paces:
    """Makes the schedule that stands for all of the module's, once they are made."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit

    def __deepcopy__(self, memo: Any) -> Paces:
        return self

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        """The schedule of an optimizer that `Optimizers` made."""
        module, told = optimizer._whynan_made  # type: ignore[attr-defined]  # made with it, for it
        own = overrides(module, "lr_scheduler_step")
        paces = [_pace(each, self.fit, own) for each in told if not waits(each)]
        return Paced(optimizer, paces, self._stepped(module) if own else _step)

    def _stepped(self, module: Any) -> Callable[[Any], None]:
        metric = len(signature(module.lr_scheduler_step).parameters) > 1

        def go(schedule: Any) -> None:
            with self.fit.attached(module):
                module.lr_scheduler_step(*(schedule, None)[: 1 + metric])

        return go


def _step(schedule: Any) -> None:
    schedule.step()


def _pace(told: Told, fit: Fit, own: bool) -> Pace:
    """own: whether the module steps it by its own hand, so that its course is not looked at."""
    schedule, by_epoch = told["scheduler"], told.get("interval", "epoch") == "epoch"
    often = max(1, int(told.get("frequency", 1)))
    natural = often * (fit.steps_an_epoch if by_epoch else 1)
    if told.get("interval", "epoch") not in ("epoch", "step"):
        raise RequestError(
            f"`configure_optimizers` gives `interval={told['interval']!r}`, but 'epoch' or 'step' "
            "was expected."
        )
    whole = math.ceil((fit.epochs if by_epoch else fit.whole) / often) if fit.is_known else None
    spent, ends = (
        (None, False) if own else spent_after(schedule, LONGEST if whole is None else whole)
    )
    if whole is None:
        lasts = spent if by_epoch or ends else None
    else:
        lasts = whole if spent is None or 2 * spent >= whole else None
    longer = 1 if not lasts else max(1, math.ceil(FEWEST / (lasts * natural)))
    epochs = fit.epochs if fit.is_known else None
    return Pace(schedule, natural * longer, by_epoch, longer, whole, epochs)
