"""What a capsule holds of a refused step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nan_watch.capsule.start import Start, State
from nan_watch.inquest.captured import Call
from probes.finding import Finding
from probes.replay import Snapshot
from probes.subject import Batch


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call of a plain loop: arguments, the gradients of its output by place, autocast."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    grads: Mapping[int, Tensor]
    autocast: Sequence[Sequence[str]]
    state: State

    @classmethod
    def of(cls, model: nn.Module, call: Call) -> ModelCall:
        """What is kept of the call."""
        autocast = [(device, str(dtype).removeprefix("torch.")) for device, dtype in call.autocast]
        state = State.of(model, call.snapshot)
        return cls(call.args, call.kwargs, call.kept_grads(), autocast, state)

    def call(self, model: nn.Module) -> Call:
        """The call, to be made again from the state that the model is now in."""
        autocast = tuple((device, getattr(torch, dtype)) for device, dtype in self.autocast)
        grads = {int(place): [grad] for place, grad in self.grads.items()}
        snapshot = Snapshot.take(model)
        return Call(tuple(self.args), self.kwargs, snapshot, autocast=autocast, grads=grads)


@dataclass(frozen=True, slots=True)
class Capsule:
    """A refused step.

    start: what it started from; its number is not the finding's where an update of the step
    before poisoned it. finding: what was said of it; `batch` of it is the batch's index.
    subject: the address of what was trained, None in a plain loop; folder: the working folder
    that it is seen from. seed, device: of the run. loss: None where it was not known. loaded:
    parameters that were not finite before the run's first step. batch: what the step read, or,
    of a plain loop, `calls`. left_out: what of the batch could not be kept. samples: which of a
    larger capsule's these are.
    """

    start: Start
    finding: Finding
    subject: str | None
    folder: str
    seed: int | None
    device: str | None
    loss: float | None
    loaded: tuple[str, ...]
    batch: Batch = None
    calls: tuple[ModelCall, ...] = ()
    left_out: tuple[str, ...] = ()
    samples: tuple[int, ...] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
