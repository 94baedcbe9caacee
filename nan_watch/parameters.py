"""Which parameters are frozen, which the optimizer does not hold, and whether frozen ones move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from probes.wrapped import local

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


class Parameters:
    """The model's parameters as they were when the watch began; for the record's settings."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        named = {
            name: parameter
            for name, parameter in model.named_parameters()
            if not torch.nn.parameter.is_lazy(parameter)
        }
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._frozen = {name: p for name, p in named.items() if not p.requires_grad}
        self._trained = {name: p for name, p in named.items() if p.requires_grad}
        self._unheld = [name for name, p in self._trained.items() if id(p) not in held]
        self._prints = _prints(self._frozen)

    def facts(self) -> Mapping[str, list[str]]:
        """`frozen` and `unheld`: names of parameters."""
        return {"frozen": list(self._frozen), "unheld": list(self._unheld)}

    def facts_at_end(self) -> Mapping[str, list[str]]:
        """`facts`, and `changed`: frozen parameters whose numbers are others than at the start."""
        now = _prints(self._frozen)
        still = {name for name, p in self._frozen.items() if not p.requires_grad}
        changed = [name for name in now if name in still and now[name] != self._prints[name]]
        return {**self.facts(), "changed": changed}


@torch.no_grad()
def _prints(named: Mapping[str, Tensor]) -> dict[str, int]:
    """The sum of each parameter's bits read as integers: exact, so that any one change shows."""
    sums = {name: _bits(p).sum(dtype=torch.int64) for name, p in named.items() if p.numel()}
    return {name: int(total) for name, total in sums.items()}


def _bits(parameter: Tensor) -> Tensor:
    numbers = local(parameter.detach())
    if numbers.is_complex():
        numbers = torch.view_as_real(numbers)
    return numbers.view(INTEGERS[numbers.dtype.itemsize])
