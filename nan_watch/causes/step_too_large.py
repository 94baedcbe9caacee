"""NAN019: a step was too large, and the next one overflows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.case.material import Case
from nan_watch.case.naming import told
from probes.finding import Evidence, Finding


@dataclass(frozen=True, slots=True)
class StepTooLarge:
    """The weights were thrown far away by the steps before, and an ordinary operator overflows.

    The operator is only the victim. What did it stands in the history: updates as large as the
    weights themselves, or a loss that grew from step to step. While the loss falls, updates do what
    they should, however large beside weights that began at zero: then only the last one counts.
    Replaying the failing step with a smaller learning rate proves nothing, because the damage was
    done before; a run from the start with a tenth of it does, which stays finite for ten times as
    many steps as well, for else it only comes there later.

    Sick:    `SGD(model.parameters(), lr=10.0)` on a squared error
    Healthy: `SGD(model.parameters(), lr=0.01)`
    """

    growth: float = 100.0
    replaced: float = 0.5
    fallen: float = 0.5

    code: ClassVar[str] = "NAN019"
    rule: ClassVar[str] = "step-too-large"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The growth of the loss, or the largest update, of the steps before."""
        birth = case.birth
        if birth is None or not _overflows(case) or case.symptom.step == 0:
            return
        grown, moved = self._loss(case), self._update(case)
        if grown is None and moved is None:
            return
        said = "the loss had grown from step to step"
        if grown is None:
            said = "updates had replaced the weights"
        evidence = [each for each in (grown, moved) if each is not None]
        yield told(
            self,
            case,
            f"overflows after steps that were too large: {said}",
            "Lower the learning rate by ten, warm it up, or clip the gradient norm.",
            *evidence,
        )

    def _loss(self, case: Case) -> Evidence | None:
        past = [value for _, value in case.symptom.past.of("loss", "value", "<loss>")]
        began = next((abs(value) for value in past if value), None)  # a loss may stand at 0
        if began is None or len(past) < 2 or not abs(past[-1]) > self.growth * max(began, 1e-12):
            return None
        grown = abs(past[-1]) / began
        return Evidence("growth of the loss over the steps kept", grown, self.growth)

    def _update(self, case: Case) -> Evidence | None:
        moved = [value for _, value in case.symptom.past.most("update", "ratio")]
        losses = [value for _, value in case.symptom.past.of("loss", "value", "<loss>")]
        if len(losses) > 1 and losses[-1] < self.fallen * losses[0]:
            moved = moved[-1:]
        if not moved or not max(moved) > self.replaced:
            return None
        return Evidence("largest update over its weights", max(moved), self.replaced)


def _overflows(case: Case) -> bool:
    """Whether it is a birth by size: an infinity of finite numbers, or a NaN of such in one."""
    birth = case.birth
    return birth is not None and (birth.inf_born or not birth.reads)
