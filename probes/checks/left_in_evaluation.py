"""WIR051: the model trains on in evaluation mode, into which a step or an epoch's end put it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.stepping.modes_to_come import ends_epoch, modes_to_come
from probes.stepping.one_step import made


@dataclass(frozen=True, slots=True)
class LeftInEvaluation:
    """The first step runs in training mode, and the next one in evaluation mode.

    Two steps are taken, and where a framework's hooks are known, two with the end of an epoch
    between them. A warning where the model has dropout or batch norm, which then stand still for
    the rest of the training. Only the model as a whole is looked at: parts may be frozen.

    Sick: a callback that calls `model.eval()` to draw samples, and not `model.train()` after.
    Healthy: `model.train()` at the start of each step, or right after the samples.
    """

    code: ClassVar[str] = "WIR051"
    rule: ClassVar[str] = "left-in-evaluation-mode"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Something that trains otherwise than it evaluates, in training mode, and its own step."""
        subject = experiment.subject
        if not any(_has_modes(module) for module in subject.model.modules()):
            return "the model has neither dropout nor batch norm"
        if subject.train_step is None and ends_epoch(made(subject)) is None:
            return "the subject has no `train_step`: the step is whynan's own"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        epochs = ends_epoch(made(experiment.subject)) is not None
        for epoch in (False, True)[: 1 + epochs]:
            modes = modes_to_come(experiment.subject, experiment.batch, epoch)
            if modes[0] and modes[1] is False:
                yield self._found(epoch)
                return

    def _found(self, epoch: bool) -> Finding:
        after = "the end of the first epoch" if epoch else "the first step"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the model is in training mode in its first step, and in evaluation mode "
            f"after {after}: dropout and batch norm stand still from then on.",
            fix="Call `model.train()` again after whatever calls `model.eval()`.",
            site="model",
            phase="forward",
            evidence=(Evidence("steps in training mode", 1, 2),),
        )


def _has_modes(module: nn.Module) -> bool:
    drops = isinstance(module, _DropoutNd) and module.p > 0
    return drops or (isinstance(module, _BatchNorm) and module.track_running_stats)
