"""What a step starts from: weights, optimizer, buffers, modes and generators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.capsule.optimizer_state import OptimizerState
from nan_watch.capsule.pack import plain
from probes.errors import RequestError
from probes.replay import RandomState, Snapshot


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
class Start:
    """All that a step starts from, beside its batch.

    step: its number. parameters: by name; `held`: those that the optimizer alone holds.
    modes: module to train flag.
    """

    step: int
    state: State
    parameters: Mapping[str, Tensor]
    held: Mapping[str, Tensor]
    modes: Mapping[str, bool]
    optimizer: OptimizerState

    @classmethod
    def of(cls, model: nn.Module, optimizer: Optimizer, snapshot: Snapshot, step: int) -> Start:
        """Copies of what is there now, and of what the snapshot has of before."""
        names = {id(module): name for name, module in model.named_modules()}
        return cls(
            step=step,
            state=State.of(model, snapshot),
            parameters=copies(dict(model.named_parameters(remove_duplicate=False))),
            held=copies(held(model, optimizer)),
            modes={names[id(m)]: training for m, training in snapshot.modes if id(m) in names},
            optimizer=OptimizerState.of(optimizer),
        )

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Model, optimizer and generators are as they were before the step.

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
