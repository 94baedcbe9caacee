"""What a schedule that is given as a function multiplies the learning rate by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from probes.raised import source_of_code
from probes.stepping.schedules import look_within, undone, went_on, with_inner
from probes.subject import Batch, Subject

HIGH = 0.5  # a factor from which on the given rate is as good as reached
SAME = 0.001  # two numbers that are one, as a share


@dataclass(frozen=True, slots=True)
class Factor:
    """The largest factor of a schedule, of the rate that the optimizer was given.

    source: the line at which the function begins that gives it.
    """

    factor: float
    given: float
    source: str | None

    @property
    def is_rate(self) -> bool:
        """Whether the factor is the given rate itself."""
        return abs(self.factor - self.given) <= SAME * self.given


def largest_factor(
    schedule: LRScheduler, steps: int, before: Sequence[float] = ()
) -> Factor | None:
    """The largest of all groups within so many steps, where that is low and a function gives it.

    before: the first group's rates in the steps that it has made since the subject made it. None
    where it comes near 1, where no `LambdaLR` takes part, or where it was taken up in the midst of
    its course.
    """
    lambdas = [each for each in with_inner(schedule) if isinstance(each, LambdaLR)]
    if not lambdas or schedule.last_epoch > len(before):
        return None
    groups = schedule.optimizer.param_groups
    known = [(group, float(group.get("initial_lr", 0.0))) for group in groups]
    first = known[0][1]
    largest = (max(before, default=0.0) / first, first) if first > 0 else (0.0, 0.0)
    with undone(schedule):
        for _ in range(steps):
            now = [(float(group["lr"]) / given, given) for group, given in known if given > 0]
            largest = max([largest, *now])
            if largest[0] >= HIGH or not went_on(schedule):
                break
    given = [function for each in lambdas for function in each.lr_lambdas]
    return Factor(*largest, _line(given[0])) if 0 < largest[0] < HIGH else None


def largest_factor_within(subject: Subject, batch: Batch, steps: int) -> Factor | None:
    """The same of the schedule that each call of the subject's own step steps.

    Raises ExperimentError where the step raises.
    """
    found = list[Factor | None]()

    def look(own: LRScheduler, rates: list[float], every: int) -> None:
        found.append(largest_factor(own, steps, rates))

    look_within(subject, batch, look)
    return found[0] if found else None


def _line(function: Callable[[int], float]) -> str | None:
    try:
        return source_of_code(function)
    except OSError:
        return None
