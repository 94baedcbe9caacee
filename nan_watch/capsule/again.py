"""A capsule's step, run again in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.capsule.content import Capsule
from nan_watch.guard import PoisonedStep
from nan_watch.inquest.captured import Call, tensors_of
from nan_watch.watch import NanWatch
from probes.batch import map_leaves, to_device
from probes.errors import RequestError
from probes.finding import Finding, Judgement
from probes.loop import Loop
from probes.record import Recorder
from probes.subject import Batch, Subject

SAME = ("code", "op", "site", "phase", "step", "source")


@dataclass(frozen=True, slots=True)
class Again:
    """What the capsule's step came to here.

    judgement: what was found. differs: what of the finding is another than it was, in words;
    empty where it is the same. None where nothing was found.
    """

    judgement: Judgement
    differs: tuple[str, ...] | None


def address(capsule: Capsule, told: str | None) -> str:
    """The address of the capsule's subject: the one that is told, or else its own.

    Raises RequestError where there is none.
    """
    own = told or capsule.subject
    if own is None:
        raise RequestError(
            "`--subject` is not given, and the capsule comes from a loop that is no Subject: name "
            "one whose model is the loop's by `--subject FILE.py:NAME`."
        )
    place, _, name = own.rpartition(":")
    elsewhere = Path(capsule.folder) / place
    if told is None and place.endswith(".py") and not Path(place).exists() and elsewhere.exists():
        return f"{elsewhere}:{name}"
    return own


def again(capsule: Capsule, subject: Subject, recorder: Recorder) -> Again:
    """The step has run again from the capsule, under the watch; the record is left open.

    Raises RequestError where the subject's model is not the capsule's, or its batch not whole.
    """
    loop = restored(capsule, subject)
    watch = NanWatch(loop.model, loop.optimizer, out=recorder, start=capsule.start.step, capsules=0)
    try:
        with watch:
            watch.loaded, watch.batch = capsule.loaded, capsule.finding.batch
            if capsule.calls:
                run_calls(capsule, loop.model, loop.optimizer, watch)
            else:
                batch = on_its_device(capsule, capsule.batch, loop.model)
                capsule.start.state.restore(loop.model)
                watch.step(partial(loop.step, batch, watch), batch=batch, layout=subject.layout)
    except PoisonedStep:
        pass
    found = watch.judgement
    told = [each for each in found.findings if each.code.startswith("NAN")]
    if not told:
        return Again(found, None)
    return Again(found, tuple(_differences(capsule, told[0])))


def restored(capsule: Capsule, subject: Subject) -> Loop:
    """The subject's loop, its model and optimizer as they were before the refused step."""
    if capsule.left_out:
        raise RequestError(
            f"`{capsule.left_out[0]}` of the step's batch is not in the capsule: only tensors, "
            "numbers, strings and their containers are kept; run the subject again by `whynan "
            "hunt` instead."
        )
    loop = Loop(subject)
    capsule.start.restore(loop.model, loop.optimizer)
    return loop


def on_its_device(capsule: Capsule, batch: Batch, model: nn.Module) -> Batch:
    """The batch where the model is; what lay on the CPU beside a model elsewhere stays there."""
    home = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if home.type == "cpu" or (capsule.device or "cpu") == "cpu":
        return to_device(batch, home)
    return map_leaves(batch, lambda _, x: x.to(home) if _is_large(x) else x)


def _is_large(leaf: Any) -> bool:
    """Lengths of packed sequences stay on the CPU, and numbers mix with any device."""
    return isinstance(leaf, Tensor) and leaf.ndim > 1


class _Loss(torch.autograd.Function):
    """The loss as it was, whose backward pass gives the outputs the gradients that they got."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: Sequence[Tensor], *outputs: Tensor) -> Tensor:
        ctx.grads = grads
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return None, None, *ctx.grads


def run_calls(capsule: Capsule, model: nn.Module, optimizer: Optimizer, watch: NanWatch) -> None:
    """A plain loop's step: the model's calls, and the gradients that their outputs got."""
    optimizer.zero_grad(set_to_none=True)
    for kept in capsule.calls:
        kept.state.restore(model)
        call = kept.call(model)
        call.args, call.kwargs, call.grads = on_its_device(
            capsule, (call.args, call.kwargs, call.grads), model
        )
        outputs = list(tensors_of(call.again(model)))
        _backward(call, outputs, capsule.loss, watch)
    optimizer.step()


def _backward(call: Call, outputs: list[Tensor], loss: float | None, watch: NanWatch) -> None:
    grads = call.kept_grads()
    chosen = [outputs[place] for place in grads]
    if not chosen:
        return
    if loss is None:
        torch.autograd.backward(chosen, list(grads.values()))
    else:
        as_it_was: Any = _Loss.apply
        watch.backward(as_it_was(torch.tensor(loss, device="cpu"), list(grads.values()), *chosen))


def _differences(capsule: Capsule, found: Finding) -> list[str]:
    told = []
    for name in SAME:
        was, now = getattr(capsule.finding, name), getattr(found, name)
        if name == "source":
            was, now = (_absolute(was, capsule.folder), _absolute(now, str(Path.cwd())))
        if was != now:
            told.append(f"`{name}` was {was}, is {now}")
    return told


def _absolute(source: str | None, folder: str) -> str | None:
    return source if source is None else str((Path(folder) / source).resolve())
