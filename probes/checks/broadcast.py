"""WIR009: `(N, 1)` meets `(N,)`, or `(N,)` meets N features: samples meet one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.bus import Bus, Kind, See
from probes.experiment import Experiment, attempted, copied
from probes.finding import Evidence, Finding, Verdict
from probes.raised import source_here
from probes.replay import Snapshot, replay
from probes.scoring.across import Met, across

LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "gaussian_nll_loss")
PAIRS = ("sub", "__sub__", "__rsub__", "rsub", "mul", "__mul__", "__rmul__", "add", "__add__")
QUOTIENTS = ("__radd__", "div", "__truediv__", "__rtruediv__", "true_divide")


@dataclass(slots=True)
class _Inside:
    """Whether the model is at work."""

    depth: int = 0
    sees: Mapping[Kind, See] = field(default_factory=lambda: {Kind.OUTPUT: _blind})

    def before(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], listening: bool) -> None:
        self.depth += 1

    def after(self, output: Any) -> None:
        self.depth -= 1


def _blind(_: int, __: Tensor) -> None:
    """Sees nothing."""


class _Pairs(TorchFunctionMode):
    """Notes where, outside of the model, a column and a row of N give N by N."""

    def __init__(self, inside: _Inside, size: int) -> None:
        super().__init__()
        self.inside = inside
        self.size = size
        self.found: list[tuple[str, str | None]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if not self.inside.depth and name in LOSSES + PAIRS and self._is_pair(args[:2]):
            self.found.append((name.strip("_"), source_here()))
        return func(*args, **(kwargs or {}))

    def _is_pair(self, args: tuple[Any, ...]) -> bool:
        if len(args) < 2 or not all(isinstance(each, Tensor) for each in args):
            return False
        shapes = {tuple(each.shape) for each in args}
        learns = {each.requires_grad for each in args}
        return shapes == {(self.size, 1), (self.size,)} and learns == {True, False}


@dataclass(frozen=True, slots=True)
class Broadcast:
    """In the loss, a column of N predictions and a row of N targets become N by N.

    Each prediction is then scored against every target, and the best that can be learned is
    their mean. It is looked for in the subject's own code around the model, where one of the two
    has a gradient and the other has none. One number a sample, `(N,)`, that meets samples of N
    features is told as well, wherever it stands: there the n-th feature of all samples gets the
    n-th sample's number, and with any other size of batch the code would raise. It is known by
    its values, which follow the order of the samples, as those of the last axis do not.

    Sick: `F.mse_loss(model(x), y)` with `(N, 1)` and `(N,)`.
    Healthy: `F.mse_loss(model(x).squeeze(-1), y)`.
    """

    code: ClassVar[str] = "WIR009"
    rule: ClassVar[str] = "column-against-row"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Two samples."""
        if experiment.size < 2:
            return "the batch cannot be cut into two samples or more"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding of each kind, at the first such place."""
        if (met := across(experiment, PAIRS + QUOTIENTS)) is not None:
            yield self._across(met, experiment.size)
        subject, inside = experiment.subject, _Inside()
        mode, n = _Pairs(inside, experiment.size), experiment.size

        def step() -> Tensor:
            with attempted("`Subject.loss`"):
                subject.loss(subject.model, copied(experiment.batch))
            return torch.zeros(())

        with Bus(subject.model, [inside], inside):
            replay(step, subject.model, Snapshot.take(subject.model), under=[mode])
        for name, source in mode.found[:1]:
            yield Finding(
                code=self.code,
                rule=self.rule,
                verdict=Verdict.FAIL,
                message=f"`{name}` is given ({n}, 1) and ({n},), which become {n} by {n}: every "
                "sample is scored against every other's target.",
                fix="Give both the same shape, for example by `.squeeze(-1)`.",
                site="<loss>",
                op=name,
                phase="forward",
                source=source,
                evidence=(Evidence("pairs of samples", n * n, n),),
            )

    def _across(self, met: Met, n: int) -> Finding:
        shape = tuple(met.other.shape)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{met.op}` is given ({n},), one number a sample, and {shape}, whose last "
            "axis is one of features: each feature meets another sample's number.",
            fix="Give it the axes that are missing, for example by `[:, None]`.",
            site="<loss>",
            op=met.op,
            phase="forward",
            source=met.source,
            evidence=(Evidence("features that meet another sample's number", n - 1, 0, f"of {n}"),),
        )
