"""NAN017: a parameter or a buffer is poisoned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from nan_watch.case.material import Case
from nan_watch.case.naming import named, sight
from nan_watch.case.trial import Patch
from nan_watch.origin.find import Origin
from probes.finding import Finding


@dataclass(frozen=True, slots=True)
class PoisonedParameter:
    """A parameter or a buffer was not finite before the step began.

    Either it was loaded so, or never initialised; or an update or a running statistic of an
    earlier step wrote it. The step that shows it is the victim. Which rows are named, and who
    reads them first.

    Sick:    `model.load_state_dict(torch.load("diverged.pt"))`
    Healthy: a checkpoint from before the loss was NaN; `whynan autopsy` tells which it is.
    """

    code: ClassVar[str] = "NAN017"
    rule: ClassVar[str] = "poisoned-parameter"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """Nothing: the watch looks at parameters and buffers itself."""
        return None

    def judge(self, case: Case) -> Iterator[Finding]:
        """The tensor and its rows."""
        origin = case.origin
        if origin is None:
            if case.symptom.state:
                yield sight(self, case)
        elif origin.given in ("parameter", "buffer"):
            found = named(sight(self, case), origin)
            known = origin.name in {each.name for each in case.symptom.state}
            yield found if known else self._read(found, origin)

    def _read(self, found: Finding, origin: Origin) -> Finding:
        """Of a tensor that the step itself mended after it had read it."""
        at = f" at {origin.source}" if origin.source else ""
        return replace(
            found,
            message=f"`{origin.name}` held {origin.held} when step {found.step} began; "
            f"`{origin.op}`{at} is the first to read it.",
            fix=f"Look at what wrote `{origin.name}` in an earlier step.",
            site=origin.name,
            phase=None,
        )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with zeros in these places; none where it does not read them."""
        trial = case.trial
        if case.origin is None or trial is None or trial.is_finite(lambda: []):
            return
        names = {case.origin.name or "", *(each.name for each in case.symptom.state)}
        yield Patch(
            "with zeros where the tensors are not finite",
            lambda: [trial.model_made_finite(names)],
            lambda: [trial.model_made_finite(names, elsewhere=True)],
        )
