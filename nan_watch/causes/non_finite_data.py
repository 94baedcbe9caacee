"""NAN016: the data itself is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.case.material import Case
from nan_watch.case.naming import named, sight
from nan_watch.case.trial import Patch
from probes.finding import Finding


@dataclass(frozen=True, slots=True)
class NonFiniteData:
    """The step reads numbers that are not finite from the batch, or from a constant.

    They were there before the first operator of the step ran, in no parameter and no buffer:
    nothing in the model bore them. Each NaN goes on through sums and products to every gradient
    of its sample. A mask whose infinities are meant, `-inf` where hidden and 0 elsewhere, is not
    data of that kind.

    Sick:    `x = torch.tensor(frame.values)` of a table with empty cells.
    Healthy: `frame.fillna(frame.mean())` before that.
    """

    code: ClassVar[str] = "NAN016"
    rule: ClassVar[str] = "non-finite-data"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The key, the sample and the column, and who first reads them."""
        origin = case.origin
        if origin is None or origin.given not in ("batch", "constant") or origin.culprit.meant:
            return
        yield named(sight(self, case), origin)

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with zeros in these places."""
        origin, trial = case.origin, case.trial
        if origin is None or trial is None or origin.given != "batch":
            return
        name = origin.name
        yield Patch(
            "with zeros where the batch is not finite",
            lambda: [trial.batch_made_finite(name)],
            lambda: [trial.batch_made_finite(name, elsewhere=True)],
        )
