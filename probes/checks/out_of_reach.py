"""IDX012: numbers to be learned that no output can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.batch import leaves
from probes.experiment import LOSS, Experiment, attempted, copied
from probes.finding import Evidence, Finding, Verdict
from probes.raised import source_here
from probes.replay import Snapshot, replay
from probes.scoring.bounds import Bounds, bounds

LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
DIFFERENCES = ("sub", "__sub__", "__rsub__", "rsub")


@dataclass(frozen=True, slots=True)
class _Asked:
    """Numbers that an operator with bounds is asked for. op: of the loss. source: its line."""

    op: str
    given: Bounds
    wanted: Tensor
    source: str | None


class _Asks(TorchFunctionMode):
    """Notes what losses, and differences from what the batch holds, ask of outputs with bounds."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = known
        self.found: list[_Asked] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result."""
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        pair = [*args, *given.values()][:2]
        if name in LOSSES + DIFFERENCES and all(isinstance(each, Tensor) for each in pair):
            for output, wanted in (pair, pair[::-1]):
                self._note(name, output, wanted)
        return func(*args, **given)

    def _note(self, name: str, output: Tensor, wanted: Tensor) -> None:
        if wanted.requires_grad or not wanted.is_floating_point() or output.shape != wanted.shape:
            return
        if name in DIFFERENCES and wanted.data_ptr() not in self.known:
            return  # it may be anything; the batch holds labels
        if (given := bounds(output)) is not None:
            self.found.append(_Asked(name.strip("_"), given, wanted.detach(), source_here()))


@dataclass(frozen=True, slots=True)
class OutOfReach:
    """A loss of numbers asks for some that the operator behind the output cannot give.

    A sigmoid gives 0 to 1, a ReLU nothing below 0. Where `share` or more of the labels lie beyond
    that, by more than rounding, the loss has a floor that no training passes. Looked at are
    torch's losses of numbers, and differences from what the batch holds.

    Sick: `F.mse_loss(model(x).sigmoid(), y)` of labels with a mean of 0.
    Healthy: `F.mse_loss(model(x), y)`; the same with labels between 0 and 1.
    """

    share: float = 0.02

    code: ClassVar[str] = "IDX012"
    rule: ClassVar[str] = "out-of-reach"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss of numbers."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding, of the first loss of which it is so."""
        for asked in _asked(experiment):
            beyond = asked.given.beyond(asked.wanted)
            count, all_ = int(beyond.sum()), beyond.numel()
            if count >= max(1, self.share * all_):
                wanted = asked.wanted
                yield Finding(
                    code=self.code,
                    rule=self.rule,
                    verdict=Verdict.WARN,
                    message=f"{count} of {all_} labels lie out of reach: `{asked.op}` asks for "
                    f"{float(wanted.min()):.3g} to {float(wanted.max()):.3g}, and the output comes "
                    f"from `{asked.given.op}`, which gives {asked.given}.",
                    fix=f"Leave out `{asked.given.op}`, or bring the labels to what it gives.",
                    site=LOSS,
                    op=asked.given.op,
                    phase="forward",
                    source=asked.source,
                    evidence=(
                        Evidence("labels out of reach", count, self.share * all_, f"of {all_}"),
                    ),
                )
                return


def _asked(experiment: Experiment) -> list[_Asked]:
    subject, batch = experiment.subject, copied(experiment.batch)
    asks = _Asks({each.data_ptr() for each in leaves(batch).values() if isinstance(each, Tensor)})

    def step() -> Tensor:
        with attempted("`Subject.loss`"), torch.enable_grad():
            subject.loss(subject.model, batch)
        return torch.zeros(())

    replay(step, subject.model, Snapshot.take(subject.model), under=[asks])
    return asks.found
