"""WIR016: something learns that is no parameter of the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from probes.ancestry import leaves_behind
from probes.experiment import LOSS, Experiment, attempted, copied
from probes.finding import Evidence, Finding, Verdict
from probes.replay import Snapshot, replay
from probes.stepping.made_anew import Born, made_anew
from probes.stepping.one_step import made
from probes.unregistered import unregistered


@dataclass(frozen=True, slots=True)
class Unregistered:
    """A tensor that the model keeps gets a gradient, but is not among the model's parameters.

    Modules in a plain list or dict, and tensors that are no `nn.Parameter`, are not seen by
    `model.parameters()`: no optimizer holds them, no `.to` moves them, no checkpoint saves them.
    Looked for is what the loss's graph ends in and the model's attributes lead to; what the
    optimizer holds by itself is healthy. A layer that is made while the batch runs has new random
    weights in every pass, in evaluation too, and never learns.

    Sick: `self.layers = [nn.Linear(8, 8) for _ in range(4)]`.
    Healthy: `self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))`.
    """

    code: ClassVar[str] = "WIR016"
    rule: ClassVar[str] = "unregistered-parameter"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss."""
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding for what is kept, and one for what is made in every pass."""
        born = made_anew(experiment) if experiment.is_random else []
        if born:
            yield self._born(born[0])
        model = experiment.subject.model
        own = {id(p) for p in model.parameters()}
        groups = made(experiment.subject).optimizer.param_groups
        held = {id(p) for group in groups for p in group["params"]}
        kept = {id(tensor): name for name, tensor, _ in unregistered(model)}
        lost = [
            kept[id(leaf)]
            for leaf in _leaves(experiment)
            if id(leaf) in kept and id(leaf) not in own | held
        ]
        if not lost:
            return
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        yield Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{lost[0]}`{more} gets a gradient, but is not among the model's parameters: "
            "no optimizer that is made from them trains it.",
            fix="Keep modules in an `nn.ModuleList` or `nn.ModuleDict`, and tensors that are to "
            "learn as `nn.Parameter`.",
            site=_module(model, lost[0]),
            phase="update",
            evidence=(Evidence("tensors that learn and are not registered", len(lost), 0),),
        )

    def _born(self, first: Born) -> Finding:
        where = "the subject's own code" if first.site == LOSS else f"`{first.site}`"
        shape = tuple(first.parameter.shape)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{where} makes a `{first.kind}` in every pass: its weights, {shape}, are "
            "drawn anew each time, and no optimizer holds them.",
            fix=f"Make the `{first.kind}` once, in `__init__`, and keep it as an attribute.",
            site=first.site,
            phase="forward",
            source=first.source,
            evidence=(Evidence("weights that are drawn in a pass", first.parameter.numel(), 0),),
        )


def _leaves(experiment: Experiment) -> list[Tensor]:
    """What the graph of the training loss ends in."""
    subject, found = experiment.subject, list[Tensor]()

    def step() -> Tensor:
        with attempted("`Subject.loss`"):
            loss = subject.loss(subject.model, copied(experiment.batch))
        found.extend(leaves_behind(loss))
        return loss.detach()

    replay(step, subject.model, Snapshot.take(subject.model))
    return found


def _module(model: nn.Module, name: str) -> str:
    """The innermost registered module on the way."""
    names = {each for each, _ in model.named_modules()}
    while name and name not in names:
        name = name[: max(name.rfind("."), 0)]
    return name or "model"
