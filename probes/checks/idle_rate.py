"""WIR008: a learning rate that is zero for many steps, or does not get anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.stepping.factors import Factor, largest_factor, largest_factor_within
from probes.stepping.one_step import made
from probes.stepping.schedules import full_steps, rates_to_come, rates_within, went_on
from probes.subject import Subject


@dataclass(frozen=True, slots=True)
class IdleRate:
    """The learning rate is zero, or next to it, because the schedule does not count in steps.

    The schedule is stepped without training. Zero for `steps` steps is a fault; zero in the first
    step of a warm-up is healthy; in one group of several it is a warning, and silence where all of
    that group is frozen, by declaration or by `requires_grad`. Zero in every group for the first
    `late` steps or more, and above it then, is a warning: a warm-up that rises by whole numbers.
    A rate that still rises after `long` steps and is below `little` of what the optimizer was
    given is a warm-up that does not end; one that falls below `gone` of its start within `soon`
    steps, and stays there, is meant for epochs and stepped every step; so is one that falls by one
    factor again and again, for good below `hundredth` of its largest, and whose rates all together
    come to fewer than `few` steps at that, or than two passes over the batches where these are
    fewer than twice as many. A `LambdaLR` whose factor is never above `little`, or whose largest
    factor is the rate that the optimizer was given, gives a rate where a factor is asked for; a
    given rate from `scale` on may itself be a factor of what it gives. These are warnings. A
    schedule that `train_step` itself steps, in each of a few calls, is judged so too.

    Sick: `Adam(model.parameters(), lr=0.0)`; `StepLR(optimizer, 1)`, stepped every step;
    `LambdaLR(optimizer, lambda step: min(1, step // 400))`, `lambda step: lr * min(1, step / 400)`.
    Healthy: `LambdaLR(optimizer, lambda step: min(1.0, step / 400))`.
    """

    steps: int = 500
    late: int = 50
    long: int = 20_000
    little: float = 0.05
    soon: int = 15
    gone: float = 1e-6
    hundredth: float = 0.01
    few: int = 50
    scale: float = 0.1

    code: ClassVar[str] = "WIR008"
    rule: ClassVar[str] = "learning-rate-zero"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        firsts = self._firsts(experiment)
        idle = [i for i, first in enumerate(firsts) if first is None]
        if not idle:
            yield from self._late(min(first for first in firsts if first is not None))
            course = list(self._course(experiment))
            yield from course or list(self._spent(experiment)) or self._squared(experiment)
            return
        every = len(idle) == len(firsts)
        learns = idle if every else [i for i in idle if _to_learn(experiment, i)]
        if not learns:
            return
        what = "the learning rate" if every else f"the learning rate of group {learns[0]}"
        names = () if every else _to_learn(experiment, learns[0])
        which = "".join(f" of `{name}`" for name in names[:1]) + _more(names)
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if every else Verdict.WARN,
            message=f"{what} is 0 and stays 0 for {self.steps} steps: nothing{which} is learned.",
            fix="Give a learning rate above 0, and a schedule that leaves its warm-up."
            if every
            else "Give it a rate above 0, or freeze it by `requires_grad_(False)`, or declare that "
            f"by `Layout(frozen=({_quoted(names)},))`.",
            site="<optimizer>",
            phase="update",
            evidence=(Evidence(f"largest rate within {self.steps} steps", 0.0),),
        )

    def _late(self, first: int) -> Iterator[Finding]:
        """A rate that leaves zero, but only after many steps."""
        if first >= self.late:
            yield Finding(
                code=self.code,
                rule=self.rule,
                verdict=Verdict.WARN,
                message=f"the learning rate is exactly 0 for the first {first} steps: nothing is "
                "learned in them.",
                fix="Let the warm-up rise from its first step, by a division (`/`) that does not "
                "round to whole numbers (`//`, `int`), or leave these steps out.",
                site="<optimizer>",
                phase="update",
                evidence=(Evidence("steps whose rate is 0", first, self.late),),
            )

    def _course(self, experiment: Experiment) -> Iterator[Finding]:
        """A warm-up without an end, or a rate that is gone at once."""
        loop = made(experiment.subject)
        if loop.schedule is None:
            return
        group, rates = loop.optimizer.param_groups[0], list[float]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(self.long):
                rates.append(float(group["lr"]))
                if not went_on(loop.schedule):
                    break
                if len(rates) > self.steps and rates[-1] <= rates[-self.steps]:
                    break  # it does not rise
        given = float(group.get("initial_lr", 0.0))
        if len(rates) == self.long and rates[-1] < self.little * given:
            yield self._warned("still rises", self.long, rates[-1], self.little * given)
        elif len(rates) > self.steps and 0 < max(rates[self.soon :]) < self.gone * rates[0]:
            yield self._warned("is gone", self.soon, rates[self.soon], self.gone * rates[0])

    def _spent(self, experiment: Experiment) -> Iterator[Finding]:
        """A rate that falls away by factors, and leaves next to no training."""
        subject, loop = experiment.subject, made(experiment.subject)
        rates = [] if loop.schedule is None else rates_to_come(loop.schedule, self.steps)
        source: str | None = None
        if subject.train_step is not None and experiment.stepped.schedules:
            within, line = rates_within(subject, experiment.batch, self.steps)
            rates, source = (within, line) if within else (rates, None)
        left, count = full_steps(rates, self.hundredth), _count(subject)
        limit = max(self.few, min(2 * count, 2 * self.few))
        if left is None or left >= limit:
            return
        passes = f", {left / count:.2g} passes over the {count} batches" if count else ""
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the learning rate falls by the same factor again and again, so soon that all "
            f"its steps come to {left:.3g} at the full rate{passes}: the schedule counts steps "
            "where epochs seem meant.",
            fix="Step the schedule once an epoch, or give it its lengths in optimizer steps.",
            site="<optimizer>",
            phase="update",
            source=source,
            evidence=(Evidence("all steps to come, in steps at the largest rate", left, limit),),
        )

    def _squared(self, experiment: Experiment) -> Iterator[Finding]:
        """Factors that are rates themselves: times the rate they are next to nothing."""
        subject, loop = experiment.subject, made(experiment.subject)
        found = None if loop.schedule is None else largest_factor(loop.schedule, self.long)
        if subject.train_step is not None and experiment.stepped.schedules:
            found = largest_factor_within(subject, experiment.batch, self.long)
        if found is None or not 0 < found.given < 1:
            return
        if found.is_rate or (found.factor < self.little and found.given < self.scale):
            yield self._told_squared(found)

    def _told_squared(self, found: Factor) -> Finding:
        rate = found.factor * found.given
        again = ", which is that rate again," if found.is_rate else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the learning rate never gets above {rate:.3g}, {1 / found.factor:.3g} times "
            f"less than the {found.given:.3g} that the optimizer was given: the schedule "
            f"multiplies it by {found.factor:.3g} at most{again} where a factor that reaches 1 is "
            "asked for.",
            fix="Let the function of a `LambdaLR` give a factor, 1 for the full rate, and not the "
            "rate itself; or give the optimizer `lr=1.0`.",
            site="<optimizer>",
            phase="update",
            source=found.source,
            evidence=(Evidence("largest rate of the schedule", rate, found.given),),
        )

    def _warned(self, what: str, step: int, rate: float, limit: float) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the learning rate {what} after {step} steps, at {rate:.3g}: the schedule "
            "counts something else than steps.",
            fix="A schedule is stepped once a step: give it its lengths in optimizer steps, not "
            "in epochs or samples.",
            site="<optimizer>",
            phase="update",
            evidence=(Evidence(f"rate after {step} steps", rate, limit),),
        )

    def _firsts(self, experiment: Experiment) -> list[int | None]:
        """The first step at which each group's rate is not zero; None where none of them is."""
        loop = made(experiment.subject)
        groups = loop.optimizer.param_groups
        firsts: list[int | None] = [None for _ in groups]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer is not stepped, on purpose
            for step in range(self.steps + 1):
                for i, group in enumerate(groups):
                    if firsts[i] is None and float(group.get("lr", 1.0)) != 0:
                        firsts[i] = step
                if loop.schedule is None or None not in firsts or not went_on(loop.schedule):
                    break
        return firsts


def _count(subject: Subject) -> int:
    """How many batches there are; 0 where they do not say."""
    return len(subject.batches) if isinstance(subject.batches, Sized) else 0


def _to_learn(experiment: Experiment, group: int) -> tuple[str, ...]:
    """The parameters of a group that require a gradient and are not declared frozen."""
    model, frozen = experiment.subject.model, experiment.declared.frozen or ("\0",)
    held = {id(p) for p in made(experiment.subject).optimizer.param_groups[group]["params"]}
    return tuple(
        name
        for name, p in model.named_parameters()
        if id(p) in held and p.requires_grad and not name.startswith(frozen)
    )


def _more(names: tuple[str, ...]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _quoted(names: tuple[str, ...]) -> str:
    tops = dict.fromkeys(f"{n.partition('.')[0]}." if "." in n else n for n in names)
    return ", ".join(f'"{top}"' for top in tops)
