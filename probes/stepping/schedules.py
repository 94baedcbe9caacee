"""The rates that a schedule has to come, also of one that a step of the subject's own steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from probes.experiment import attempted
from probes.raised import source_here
from probes.replay import Snapshot, replay
from probes.stepping.one_step import keep_strangers, made, take_step
from probes.stepping.scheduled import noted_schedules
from probes.subject import Batch, Subject

TIMES = 3  # calls of the step, in each of which a schedule is to be stepped
SAME = 0.01  # two factors by which a rate falls, as a share
LEAST = 1e-7  # of the largest rate; what is below is not looked at


def rates_within(subject: Subject, batch: Batch, steps: int) -> tuple[list[float], str | None]:
    """The rates from the start, one a call, of the schedule that each call of the step steps.

    With the line that steps it. Nothing where there is none, or where a call leaves it as it is,
    as one that counts epochs.
    Raises ExperimentError where the step raises.
    """
    found = list[float]()

    def look(own: LRScheduler, rates: list[float], every: int) -> None:
        found.extend([*rates, *rates_to_come(own, steps * every)][::every])

    return found, look_within(subject, batch, look)


def look_within(
    subject: Subject, batch: Batch, look: Callable[[LRScheduler, list[float], int], None]
) -> str | None:
    """Looks at the schedule that each call of the step steps; the line that steps it.

    look: is given it after a few calls, its rates before each of its steps up to then, and how
    many steps it makes a call; is not called where there is none, or a call leaves it as it is.
    Raises ExperimentError where the step raises.
    """
    model, lines = subject.model, list[str | None]()

    def step() -> Tensor:
        loop = made(subject)
        own, rates = list[LRScheduler](), list[float]()

        def note(schedule: LRScheduler) -> None:
            if schedule.optimizer is loop.optimizer and schedule is not loop.schedule:
                own.append(schedule)
                rates.append(float(schedule.optimizer.param_groups[0].get("lr", 1.0)))
                lines.append(source_here())

        with noted_schedules(note):
            for done in range(1, TIMES + 1):
                take_step(loop, batch)
                if len(own) < done:
                    return torch.zeros(())
        look(own[0], rates, max(1, len(own) // TIMES))
        return torch.zeros(())

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return next((line for line in lines if line is not None), None)


def rates_to_come(schedule: LRScheduler, steps: int) -> list[float]:
    """The rates of the first group, now and after each step; the schedule is as it was then."""
    groups, rates = schedule.optimizer.param_groups, list[float]()
    with undone(schedule):
        for _ in range(steps):
            rates.append(float(groups[0].get("lr", 1.0)))
            if not went_on(schedule):
                break
    return rates


@contextmanager
def undone(schedule: LRScheduler) -> Iterator[None]:
    """Inside, it may be stepped alone; it and the optimizer's settings are then as they were."""
    groups = schedule.optimizer.param_groups
    settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    kept = [(each, dict(vars(each))) for each in with_inner(schedule)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer is not stepped, on purpose
            yield
    finally:
        for group, setting in zip(groups, settings, strict=True):
            group.update(setting)
        for each, attributes in kept:
            vars(each).update(attributes)


def went_on(schedule: LRScheduler) -> bool:
    """Whether it made a step. Raises ExperimentError where it raises."""
    with attempted("the schedule's `step`"):
        try:
            schedule.step()
        except (TypeError, ValueError):  # it wants a metric, or is at its end
            return False
    return True


def full_steps(rates: list[float], gone: float) -> float | None:
    """How many steps at the largest rate all these rates come to, where they fall away for good.

    Each time by the same factor, until they are below so small a share of the largest, and stay
    there, above zero; else None. What runs to an end of its own, as a line or a cosine, does not.
    """
    top = max(rates, default=0.0)
    if not top > 0 or min(rates) <= 0:
        return None
    start = max(i for i, rate in enumerate(rates) if rate == top)
    end = next((i for i in range(start, len(rates)) if rates[i] <= gone * top), None)
    if end is None or max(rates[end:]) > gone * top:
        return None
    levels = list(dict.fromkeys(rate for rate in rates[start:] if rate > LEAST * top))
    factors = [low / high for high, low in pairwise(levels)]
    if len(factors) < 2 or max(factors) - min(factors) > SAME * max(factors):
        return None
    return sum(rates) / top


def with_inner(schedule: LRScheduler) -> list[LRScheduler]:
    """The schedule and those that it is made of."""
    inner = getattr(schedule, "_schedulers", ())
    return [schedule, *(deep for each in inner for deep in with_inner(each))]
