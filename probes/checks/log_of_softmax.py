"""WIR012: the log of a softmax, or of a sigmoid's rest, is taken by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.softmaxes.formed import Use, places


@dataclass(frozen=True, slots=True)
class LogOfSoftmax:
    """A probability is computed, and then its log: where it underflows, the loss is infinite.

    A softmax gives an exact 0 for a score some 100 below the largest, and its log's backward a
    NaN; 1 - sigmoid(x) is 0 from x = 17 on. It is a warning before that happens, and a fault
    where a probability is 0 already; the log of a plain sigmoid, good down to -88, is a note.
    What is added to the probability, or clamps it, before the log is silence, and so is a log
    that the loss does not hang on.

    Sick: `scores.softmax(-1).log()`; `torch.log(1 - torch.sigmoid(x))`.
    Healthy: `scores.log_softmax(-1)`; `F.logsigmoid(-x)`; `(scores.softmax(-1) + 1e-8).log()`.
    """

    code: ClassVar[str] = "WIR012"
    rule: ClassVar[str] = "log-of-softmax"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a line."""
        logs = [use for use in experiment.formed if use.name in ("log", "log_", "log1p")]
        for use, count in places([use for use in logs if use.of in _BETTER]):
            yield self._said(use, count)

    def _said(self, use: Use, count: int) -> Finding:
        plain = use.of == "sigmoid"
        least = float((use.given + 1).min() if use.of == "-sigmoid" else use.given.min())
        smallest = torch.finfo(use.given.dtype).tiny
        verdict = Verdict.NOTE if plain else Verdict.WARN
        if not least > 0:
            verdict = Verdict.FAIL
        often = f", {count} times a step" if count > 1 else ""
        now = " and is 0 already" if not least > 0 else ""
        better = _BETTER[str(use.of)]
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"the log of a {_NAMES.get(str(use.of), use.of)} is taken by itself{often}: a "
            f"probability that underflows{now} makes the loss infinite and its gradient NaN.",
            fix=f"Compute both in one: `{better}`.",
            site=use.site or "<loss>",
            op=f"aten.{use.name.strip('_')}",
            phase="forward",
            source=use.source,
            evidence=(Evidence("smallest probability in this batch", least, smallest),),
        )


_BETTER = {
    "softmax": "scores.log_softmax(dim)",
    "sigmoid": "F.logsigmoid(x)",
    "1 - sigmoid": "F.logsigmoid(-x)",
    "-sigmoid": "F.logsigmoid(-x)",
}
_NAMES = {"-sigmoid": "1 - sigmoid"}
