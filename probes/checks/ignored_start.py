"""STA009: a recurrence starts from zeros, and a state that was made for it is read by nobody."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from probes.bus import Kind
from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.modules import every_module
from probes.states.life import Life, differs
from probes.states.recurrence import Call, Recurrent

NAMED = re.compile(r"(^|_)([hc]_?(0|x|n)|init\w*|start|state|hidden)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class IgnoredStart:
    """A recurrent module starts from zeros, and something that has its state's size is unused.

    In one training step no gradient reaches a parameter, or any parameter of a module that ran
    before, and what that is or gave has the width of the state: an encoder's final state, a bridge,
    a learned initial state that was to be handed over. A decoder that starts from zeros on purpose
    leaves nothing unread.

    Sick: `h = torch.zeros_like(bridge(encoded))`.
    Healthy: `h = bridge(encoded)`.
    """

    code: ClassVar[str] = "STA009"
    rule: ClassVar[str] = "initial-state-ignored"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A recurrent module that starts from zeros."""
        starts = [each for each in experiment.recurrent if _starts_from_zeros(each.calls[0])]
        return None if starts else "no recurrent module starts from zeros"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        lost = _lost(experiment)
        for each in reversed(experiment.recurrent):
            width = _width(each)
            if each.site in lost or not _starts_from_zeros(each.calls[0]) or width is None:
                continue
            before = _before(experiment, each.site)
            fit = [name for name, widths in lost.items() if widths & {width, 2 * width}]
            found = [n for n in fit if before.get(n, 0) >= 0 and not _is_read(experiment, n)]
            if found:
                yield self._ignored(each, max(found, key=lambda n: before.get(n, 0)), width)
                return

    def _ignored(self, each: Recurrent, name: str, width: int) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{each.site}` starts from zeros, and `{name}`, which is as wide as its state "
            f"({width}), is read by nothing: no gradient reaches it.",
            fix=f"Start `{each.site}` from what `{name}` gives, or take `{name}` away.",
            site=each.site,
            phase="forward",
            source=each.calls[0].source,
            where={"time": 0},
            evidence=(Evidence("largest magnitude of the initial state", 0.0, None),),
        )


def _starts_from_zeros(call: Call) -> bool:
    return not any(bool((held.value != 0).any()) for held in call.before)


def _width(each: Recurrent) -> int | None:
    size = getattr(each.module, "hidden_size", None)
    if isinstance(size, int):
        return size
    gave = each.calls[0].after(each.parts) if each.parts else []
    return gave[0].value.shape[-1] if gave and gave[0].value.ndim == 2 else None


def _lost(experiment: Experiment) -> dict[str, set[int]]:
    """What ran or is a parameter of the model, and gets no gradient at all, with its widths."""
    grads, model = experiment.stepped.grads, experiment.subject.model
    root = next(every_module(model))[0]
    found: dict[str, set[int]] = {}
    for name, module in every_module(model):
        own = [p for p in module.parameters() if p.requires_grad]
        prefix = "" if name == root else f"{name}."
        got = [grads.get(f"{prefix}{key}") for key, _ in module.named_parameters()]
        if own and all(grad is None for grad in got):
            found[name] = _gave(experiment, name)
    found |= _parameters(model, grads)
    return {name: widths for name, widths in found.items() if widths}


def _is_read(experiment: Experiment, name: str) -> bool:
    """Whether a result moves with it, though no gradient comes there: it was detached."""
    alone, life = Life(experiment).evaluate(experiment.batch), Life(experiment)
    for key, parameter in life.subject.model.named_parameters():
        if key == name or key.startswith(f"{name}."):
            steps = torch.linspace(0.5, 1.5, parameter.numel(), device=parameter.device)
            parameter.data.add_(steps.view_as(parameter).to(parameter.dtype))
    return differs(alone, life.evaluate(experiment.batch)) is not None


def _before(experiment: Experiment, site: str) -> dict[str, int]:
    """When each module that gave something did so last before the site ran; -1 if it did not."""
    events = experiment.evaluated.ran.events
    own = (i for i, event in enumerate(events) if event.module == site)
    start = next(own, len(events))
    found = {event.module: -1 for event in events}
    return found | {e.module: i for i, e in enumerate(events[:start]) if e.kind is Kind.OUTPUT}


def _gave(experiment: Experiment, name: str) -> set[int]:
    """The widths of what the module gave, if it was called."""
    return {
        event.value.shape[-1]
        for event in experiment.evaluated.ran.events
        if event.module == name
        and event.kind is Kind.OUTPUT
        and event.value is not None
        and event.value.ndim > 1
    }


def _parameters(model: nn.Module, grads: Mapping[str, Tensor | None]) -> dict[str, set[int]]:
    """Parameters beside other modules that are called as an initial state is."""
    return {
        name: {parameter.shape[-1]}
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.ndim
        and NAMED.search(name.rpartition(".")[2])
        and grads.get(name) is None
        and any(True for _ in model.get_submodule(name.rpartition(".")[0]).children())
    }
