"""The model's part of a plain loop's step, run again; what lies outside is said to lie outside."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from nan_watch.case.symptom import Symptom
from nan_watch.inquest.captured import Call, Captured, tensors_of
from nan_watch.inquest.hold import Inquest, Repeatable
from probes.finding import Evidence, Finding
from probes.replay import is_finite
from probes.subject import Batch

OUTPUT = "<output>"
NODES = 12  # of the loss code that are told


@dataclass(frozen=True, slots=True)
class Part:
    """Calls of a model with the gradients that their outputs got.

    backward: for each call, whether its backward pass is run: its gradients are there and
    finite. Where they are not, they came from outside, or from an output that was sick before.
    scale: of the loss, without which they are run.
    """

    model: nn.Module
    calls: Sequence[Call]
    backward: Sequence[bool]
    scale: float = 1.0

    @classmethod
    def of(cls, model: nn.Module, calls: Sequence[Call], scale: float = 1.0) -> Part:
        """The calls, whose gradients were looked at: the device is read."""
        return cls(model, calls, [_fit(call) for call in calls], scale)

    @classmethod
    def known(cls, captured: Captured) -> Part:
        """What is known of the step at work."""
        return cls.of(captured.model, captured.known, captured.scale)

    def run(self) -> Tensor:
        """The calls have run again, and their backward passes; returns the first sick output.

        An output is sick where something in it that is not finite has a gradient, for then it
        reached the loss; or, where its gradients are of no use, where it holds NaN or an
        infinity above, for `-inf` may be meant. Returns a zero where none is.
        """
        sick: Tensor | None = None
        for number, (call, backward) in enumerate(zip(self.calls, self.backward, strict=True)):
            if number:  # a replay starts from the first one's
                with _disable_current_modes():
                    call.snapshot.restore()
            outputs = list(tensors_of(call.again(self.model)))
            grads = call.kept_grads() if backward else {}
            if sick is None:
                with _disable_current_modes():
                    sick = _first_sick(outputs, grads, backward)
            if backward:
                roots = [outputs[place] for place in grads]
                torch.autograd.backward(roots, [grad / self.scale for grad in grads.values()])
        return torch.zeros(()) if sick is None else sick

    @property
    def batch(self) -> Batch:
        """What the model was given, by the names of its arguments; a list of several calls'."""
        given = [_named(self.model, call) for call in self.calls]
        return given[0] if len(given) == 1 else given

    def repeatable(self) -> Repeatable:
        """The part as a step that can be run again."""
        rows = {"given": self.batch, "gradients": self.gradients}
        start, packs = self.calls[0].snapshot, all(call.of is None for call in self.calls)
        return Repeatable(self.run, start, self.batch, returns=OUTPUT, rows=rows, packs=packs)

    @property
    def gradients(self) -> list[Tensor]:
        """Those that the outputs got, of the calls whose backward passes are run."""
        ran = [call for call, back in zip(self.calls, self.backward, strict=True) if back]
        return [grad for call in ran for each in call.grads.values() for grad in each]


def explain(captured: Captured, inquest: Inquest, symptom: Symptom, finding: Finding) -> Finding:
    """The finding as the model's part of the step tells it, or with why it tells nothing."""
    why = lacks(captured)
    if why is not None:
        finding = replace(finding, evidence=(*finding.evidence, Evidence("not replayed", why)))
        return finding if captured.is_tied else _advised(finding)
    again = Part.known(captured).repeatable()
    told = inquest.hold(symptom, finding, again)
    return told if told is not finding else _outside(finding, captured)


def _outside(finding: Finding, captured: Captured) -> Finding:
    """The finding, which the model's part does not show, with what follows from that."""
    evidence = [*finding.evidence]
    if captured.dropped:
        what = "earlier calls of the step, too many or too large to be kept"
        evidence.append(Evidence(what, captured.dropped))
    if finding.site != "<loss>":
        evidence.append(Evidence("the model's part, replayed", "finite: it does not repeat"))
        return _advised(replace(finding, evidence=tuple(evidence)))
    evidence.append(Evidence("the model's part, replayed", "no cause in it"))
    nodes = loss_nodes(captured)
    if nodes:
        what = "autograd nodes between the loss and the model's output"
        evidence.append(Evidence(what, ", ".join(nodes)))
    message, fix = finding.message.removesuffix("."), finding.fix.removesuffix(".")
    return replace(
        finding,
        message=f"{message}; a plain loop's loss code is outside of what can be replayed.",
        fix=f"{fix}; hand the step over as `watch.step(fn)`, which replays that too and names the "
        "operator and its line.",
        evidence=tuple(evidence),
    )


def _advised(finding: Finding) -> Finding:
    """With how the step would be replayed whole."""
    fix = finding.fix.removesuffix(".")
    return replace(finding, fix=f"{fix}; `watch.step(fn)` replays the step and names the line.")


def loss_nodes(captured: Captured) -> list[str]:
    """The nodes of the loss code, from the loss down; none where `watch.backward` had no loss."""
    found: list[str] = []
    queue, seen = [captured.loss], set()
    while queue and len(found) < NODES:
        node = queue.pop(0)
        if node is None or node in seen or node._sequence_nr() in captured.ends:
            continue
        seen.add(node)
        if not node.name().endswith("AccumulateGrad"):
            found.append(node.name().rpartition("::")[2])
        queue.extend(before for before, _ in node.next_functions)
    return found


def lacks(captured: Captured) -> str | None:
    """Why the model's part cannot be run again; None where it can."""
    if captured.is_tied:
        return "its calls speak to the other processes, and this one must not run alone"
    if not captured.known:
        return (
            f"no call of the model with gradients was seen since the optimizer's last step{_or()}"
        )
    for call in captured.known:
        if call.changed is not None:
            return f"`{call.changed}` of the model's arguments was changed in place after the call"
    return None


def _or() -> str:
    """What else may be, where code is compiled."""
    if "torch._dynamo" not in sys.modules:
        return ""
    return "; one that stands inside of a function that is compiled is not known"


def _fit(call: Call) -> bool:
    return bool(call.grads) and all(is_finite(grad) for grad in call.kept_grads().values())


def _first_sick(
    outputs: Sequence[Tensor], grads: Mapping[int, Tensor], used: bool
) -> Tensor | None:
    for place, output in enumerate(outputs):
        if used and place in grads and bool((~output.isfinite() & (grads[place] != 0)).any()):
            return output
        if (
            not used
            and not output.is_complex()
            and bool((output.isnan() | output.isposinf()).any())
        ):
            return output
    return None


def _named(model: nn.Module, call: Call) -> Mapping[str, Any]:
    """The arguments by the names that the model's forward gives them, as far as it has some."""
    try:
        bound = inspect.signature((call.of or model).forward).bind(*call.args, **call.kwargs)
    except (TypeError, ValueError):
        return {str(place): value for place, value in enumerate(call.args)} | dict(call.kwargs)
    return dict(_flat(bound))


def _flat(bound: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value
