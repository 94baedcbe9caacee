"""STA010: an output made step by step differs from the same made at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from probes.compare import NOISES, gap, scale
from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict

WAY = re.compile(
    r"(?:^|_)(?:by_)?(?:steps?|stepwise|step_by_step|cached?|with_cache|incremental|decoded|"
    r"decoding|online|streamed|streaming|unrolled|parallel|full|whole|at_once)(?=_|$)"
)

WHOLE = re.compile(r"(?:^|_)(?:parallel|full|whole|at_once)(?=_|$)")


@dataclass(frozen=True, slots=True)
class StepParity:
    """Two ways to one output, such as `logits` and `step_logits`, come to other numbers.

    They have one shape, and are held against each other place by place. Where they agree at the
    first place and part later, what is handed from step to step is wrong: a position that does not
    go on where the cache ends, a state that is not kept. Where they agree nowhere, they may be two
    things, and it is a warning.

    Sick: `position = past + 1` in a cached step.
    Healthy: `position = past`.
    """

    tolerance: float = 1e-3  # of the largest value

    code: ClassVar[str] = "STA010"
    rule: ClassVar[str] = "step-parity"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Two outputs of such names and one shape."""
        if not any(True for _ in _pairs(experiment)):
            return "no two outputs differ in name by how they were made: `logits`, `step_logits`"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a pair."""
        for one, two in _pairs(experiment):
            a, b = experiment.outputs[one], experiment.outputs[two]
            size = scale(a)
            limit = max(self.tolerance * size, NOISES * experiment.evaluated.noise)
            places = [gap(a[:, p], b[:, p])[0] for p in range(a.shape[1])]
            off = [p for p, apart in enumerate(places) if not apart <= limit]
            if off:
                yield self._finding(one, two, off, max(places), size, limit)

    def _finding(
        self, one: str, two: str, off: list[int], largest: float, size: float, limit: float
    ) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if off[0] else Verdict.WARN,
            message=f"`{two}` is not `{one}`: from place {off[0]} on they are up to "
            f"{100 * largest / size:.2g}% apart"
            + (", and before that the same." if off[0] else "."),
            fix="Look for a position, mask or state that does not go on from step to step where "
            "the step before ended.",
            site="model",
            phase="forward",
            where={"token": off[0]},
            evidence=(Evidence(f"largest difference of `{two}`", largest, limit),),
        )


def _pairs(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """The plain name first, then the one that says how it was made."""
    done: dict[str, tuple[str, Tensor]] = {}
    for name, value in sorted(experiment.outputs.items(), key=lambda each: len(each[0])):
        stem = WAY.sub("", name).strip("_")
        if value.ndim < 2 or not value.is_floating_point() or not stem:
            continue
        known = done.get(stem)
        if known is None:
            done[stem] = (name, value)
        elif known[1].shape == value.shape and not all(
            WHOLE.search(each) or not WAY.search(each) for each in (known[0], name)
        ):
            yield known[0], name
