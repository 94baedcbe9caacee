"""What a capsule holds of a refused step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.capsule.optimizer_state import OptimizerState
from nan_watch.capsule.pack import plain
from nan_watch.captured import Call
from probes.errors import RequestError
from probes.finding import Finding
from probes.replay import RandomState, Snapshot
from probes.subject import Batch


@dataclass(frozen=True, slots=True)
class State:
    """What the model's call started from, beside its weights: generators and buffers by name."""

    random: RandomState
    buffers: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, snapshot: Snapshot) -> State:
        """The snapshot's, by the names that the model has for its buffers."""
        owners = {id(m._buffers): name for name, m in model.named_modules(remove_duplicate=False)}
        found = {}
        for kept in snapshot.buffers:
            name = owners.get(id(kept.owner))
            if name is not None and kept.copy is not None:
                found[f"{name}.{kept.name}" if name else kept.name] = kept.copy
        return cls(snapshot.random, found)

    def restore(self, model: nn.Module) -> None:
        """The model's buffers are these, and so are the generators."""
        write(dict(model.named_buffers(remove_duplicate=False)), self.buffers)
        self.random.restore()


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

    step: its number, which is not the finding's where an update of the step before poisoned it.
    finding: what was said of it; `batch` of it is the batch's index. subject: the address of
    what was trained, None in a plain loop; folder: the working folder that it is seen from.
    seed, device: of the run. loss: None where it was not known. loaded: parameters that were not
    finite before the run's first step. batch: what the step read, or, of a plain loop, `calls`.
    parameters: by name; `held`: those that the optimizer alone holds. modes: module to train flag.
    left_out: what of the batch could not be kept. samples: which of a larger capsule's these are.
    """

    step: int
    finding: Finding
    subject: str | None
    folder: str
    seed: int | None
    device: str | None
    loss: float | None
    loaded: tuple[str, ...]
    state: State
    parameters: Mapping[str, Tensor]
    held: Mapping[str, Tensor]
    modes: Mapping[str, bool]
    optimizer: OptimizerState
    batch: Batch = None
    calls: tuple[ModelCall, ...] = ()
    left_out: tuple[str, ...] = ()
    samples: tuple[int, ...] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Model, optimizer and generators are as they were before the refused step.

        Raises RequestError where the model has other parameters or shapes.
        """
        write(dict(model.named_parameters(remove_duplicate=False)), self.parameters, whole=True)
        write(held(model, optimizer), self.held)
        self.optimizer.load(optimizer)
        for name, module in model.named_modules(remove_duplicate=False):
            module.training = self.modes.get(name, module.training)
        self.state.restore(model)


def held(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The parameters that the optimizer holds and the model does not, by group and place."""
    own = {id(parameter) for parameter in model.parameters()}
    return {
        f"{number}.{place}": parameter
        for number, group in enumerate(optimizer.param_groups)
        for place, parameter in enumerate(group["params"])
        if id(parameter) not in own
    }


def copies(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain copies of the tensors."""
    return {name: plain(tensor) for name, tensor in named.items()}


@torch.no_grad()
def write(into: Mapping[str, Tensor], kept: Mapping[str, Tensor], whole: bool = False) -> None:
    """The tensors hold what was kept. whole: each one must be among it.

    Raises RequestError where one is missing, left over or of another shape.
    """
    for name in sorted(into.keys() | kept.keys() if whole else kept.keys()):
        ours, theirs = into.get(name), kept.get(name)
        if ours is None or theirs is None:
            where = "is kept, but the model has none" if ours is None else "is not among them"
            raise RequestError(
                f"the weights that were kept are another model's: `{name}` {where}; build the "
                "model as it was built then, or name that one by `--subject`."
            )
        if ours.shape != theirs.shape:
            raise RequestError(
                f"the weights that were kept are another model's: `{name}` is "
                f"{tuple(theirs.shape)} there, but the model has {tuple(ours.shape)}; build the "
                "model as it was built then, or name that one by `--subject`."
            )
        ours.data.copy_(theirs)
