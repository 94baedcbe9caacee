"""WIR027: dropout that leaves next to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.experiment import Experiment, attempted, copied
from probes.finding import Evidence, Finding, Verdict
from probes.raised import source_here
from probes.replay import Snapshot, replay

DROPS = (
    *("dropout", "dropout1d", "dropout2d", "dropout3d"),
    *("alpha_dropout", "feature_alpha_dropout"),
)


@dataclass(frozen=True, slots=True)
class _Drop:
    """A call that drops. rate: the share. source: the user's line."""

    op: str
    rate: float
    source: str | None


class _Drops(TorchFunctionMode):
    """Notes the calls that drop in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Drop] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result."""
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in DROPS:
            rate = args[1] if len(args) > 1 else given.get("p", 0.5)
            at_work = args[2] if len(args) > 2 else given.get("training", True)
            if at_work and isinstance(rate, float | int):
                self.found.append(_Drop(name, float(rate), source_here()))
        return func(*args, **given)


@dataclass(frozen=True, slots=True)
class HeavyDropout:
    """Dropout drops `rate` or more in training: it was given the share that is to be kept.

    torch's rate is the share that is dropped, while a `keep_prob` is the share that stays. So much
    noise leaves hardly anything to learn from, and all is well in evaluation. Looked at are calls
    of torch's dropout while the loss runs as it trains, and the rates that recurrent and attention
    modules hold.

    Sick: `nn.Dropout(keep_prob)` with `keep_prob = 0.97`.
    Healthy: `nn.Dropout(1 - keep_prob)`; `nn.Dropout(0.5)`.
    """

    rate: float = 0.9

    code: ClassVar[str] = "WIR027"
    rule: ClassVar[str] = "heavy-dropout"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding, of the largest rate."""
        called = [each for each in _called(experiment) if each.rate >= self.rate]
        held = [each for each in _held(experiment.subject.model) if each[1] >= self.rate]
        if not called and not held:
            return
        worst = max(called, key=lambda each: each.rate, default=None)
        site, rate = max(held, key=lambda each: each[1], default=("model", 0.0))
        rate = max(rate, worst.rate if worst else 0.0)
        count = max(len(called), len(held))
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"dropout takes {100 * rate:.3g}% of what it is given in training"
            + (f", in {count} places" if count > 1 else "")
            + f": {rate:.3g} looks like the share that is to be kept.",
            fix=f"Give dropout the share to drop: {1 - rate:.2g} for {rate:.2g}.",
            site=site,
            op=worst.op if worst else None,
            phase="forward",
            source=worst.source if worst else None,
            evidence=(Evidence("share that is dropped", rate, self.rate),),
        )


def _called(experiment: Experiment) -> list[_Drop]:
    subject, drops = experiment.subject, _Drops()

    def step() -> Tensor:
        with attempted("`Subject.loss`"), torch.no_grad():
            subject.loss(subject.model, copied(experiment.batch))
        return torch.zeros(())

    replay(step, subject.model, Snapshot.take(subject.model), under=[drops])
    return drops.found


def _held(model: nn.Module) -> Iterator[tuple[str, float]]:
    """Site and rate of what drops by a number that it holds."""
    for site, module in model.named_modules():
        rate = getattr(module, "dropout", None)
        if not isinstance(rate, float):
            rate = getattr(module, "p", None) if "Dropout" in type(module).__name__ else None
        if isinstance(rate, float) and module.training:
            yield site, rate
