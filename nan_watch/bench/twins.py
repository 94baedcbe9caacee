"""The cost where no model can be shared: alike ones, one of them watched, step by step in turn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from time import perf_counter

from nan_watch.bench.costs import (
    CHECKED,
    WANTED,
    Cost,
    Costs,
    Say,
    clock,
    steps_of_a_turn,
    timed,
)
from nan_watch.bench.intervals import interval
from nan_watch.bench.tools import STEADY
from probes.errors import RequestError

Step = Callable[[], object]
Start = Callable[[bool, str], AbstractContextManager[Step]]
ROWS = ("A/A", "sites")


@dataclass(frozen=True, slots=True)
class Trainer:
    """A way to train that is measured.

    name: how it is asked for. what: what it is, in words. start: gives the step of a model of its
    own, watched or bare, on the device.
    """

    name: str
    what: str
    start: Start


def compared(
    start: Start,
    pairs: int,
    seconds: float,
    warm: int = STEADY,
    device: str = "cpu",
    say: Say | None = None,
    agreed: Callable[[bool], bool] = bool,
) -> Iterator[tuple[list[float], dict[str, list[float]]]]:
    """Seconds of bare steps, and ratios by row, after every round.

    In a round a watched step and another bare one each stand between two bare ones, whose
    geometric mean is their unit. warm: watched steps before it counts. agreed: told whether to
    end, says whether all of them do.
    """
    now, steps = clock(device), steps_of_a_turn(device)
    bare, ratios = list[float](), {row: list[float]() for row in ROWS}
    with ExitStack() as opened:
        plain, other, watched = (
            opened.enter_context(start(on, device)) for on in (False, False, True)
        )
        for _ in range(warm):
            watched()
        for step in (plain, other) * 3:
            step()
        end = perf_counter() + seconds
        for done in range(1, pairs + 1):
            before = timed(plain, now, steps)
            for row, step in zip(ROWS, (other, watched), strict=True):
                taken, after = timed(step, now, steps), timed(plain, now, steps)
                bare.append(after)
                ratios[row].append(taken / math.sqrt(before * after))
                before = after
            width = interval(ratios["sites"]).width if done % CHECKED == 0 else math.inf
            if say is not None:
                say(done, width)
            yield bare, ratios
            if agreed(width <= WANTED or perf_counter() > end):
                return


def costs(trainer: Trainer, bare: Sequence[float], ratios: dict[str, list[float]]) -> Costs:
    """What was measured, as it is told."""
    rows = tuple(Cost(row, interval(ratios[row])) for row in ROWS)
    return Costs(trainer.name, trainer.what, statistics.median(bare), rows)


def measure_twins(
    trainer: Trainer,
    *,
    pairs: int,
    seconds: float,
    warm: int = STEADY,
    device: str = "cpu",
    say: Say | None = None,
) -> Costs:
    """The watch's ratio with this trainer; a row that says why where it cannot be had here.

    Ctrl-C keeps what there is.
    """
    last: tuple[list[float], dict[str, list[float]]] | None = None
    try:
        for each in compared(trainer.start, pairs, seconds, warm, device, say):
            last = each
    except KeyboardInterrupt:
        pass
    except (RequestError, ImportError) as error:
        return missing(trainer, str(error))
    else:
        return _told(trainer, last)
    return replace(_told(trainer, last), interrupted=True)


def _told(trainer: Trainer, last: tuple[list[float], dict[str, list[float]]] | None) -> Costs:
    return costs(trainer, *last) if last else missing(trainer, "ended before its turn")


def missing(trainer: Trainer, why: str) -> Costs:
    """No row was measured, and why."""
    return Costs(trainer.name, trainer.what, None, tuple(Cost(row, None, why) for row in ROWS))
