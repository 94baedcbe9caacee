"""An optimizer's state as tensors and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from nan_watch.capsule.pack import plain
from probes.errors import RequestError


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """tensors: by `index.name`. numbers: by index and name. groups: the settings of each group."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    groups: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, optimizer: Optimizer) -> OptimizerState:
        """The optimizer's state of now, copied."""
        state = optimizer.state_dict()
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, dict[str, Any]] = {}
        for index, slots in state["state"].items():
            for name, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"{index}.{name}"] = plain(value)
                else:
                    numbers.setdefault(str(index), {})[name] = value
        return cls(tensors, numbers, tuple(state["param_groups"]))

    def load(self, optimizer: Optimizer) -> None:
        """The optimizer is in this state. Raises RequestError where it has other parameters."""
        state = {int(index): dict(slots) for index, slots in self.numbers.items()}
        for path, tensor in self.tensors.items():
            index, _, name = path.partition(".")
            state.setdefault(int(index), {})[name] = tensor
        groups = [_tuples_again(group) for group in self.groups]
        try:
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        except ValueError as error:
            raise RequestError(
                f"`optimizer` holds other parameters than the one whose state was kept ({error}): "
                "make it as it was made then."
            ) from error


def _tuples_again(group: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples: Adam's `betas` come back as a list."""
    return {
        key: tuple(value) if isinstance(value, list) and key != "params" else value
        for key, value in group.items()
    }
