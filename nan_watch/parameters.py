"""Which parameters are frozen, which the optimizer does not hold, and which of them move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from probes.unregistered import unregistered
from probes.wrapped import local

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


class Parameters:
    """The model's parameters as they were when the watch began; for the record's settings."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        named = {
            name: parameter
            for name, parameter in model.named_parameters()
            if not torch.nn.parameter.is_lazy(parameter)
        }
        held = self._held()
        self._frozen = {name: p for name, p in named.items() if not p.requires_grad}
        self._trained = {name: p for name, p in named.items() if p.requires_grad}
        self._unheld = {name: p for name, p in self._trained.items() if id(p) not in held}
        known = held | {id(parameter) for parameter in named.values()}
        self._kept = {
            name: each
            for name, each, trained in unregistered(model)
            if trained and _learns(each) and id(each) not in known
        }
        self._prints = _prints({**self._kept, **self._frozen, **self._unheld})

    def _held(self) -> set[int]:
        return {id(p) for group in self._optimizer.param_groups for p in group["params"]}

    def facts(self) -> Mapping[str, list[str]]:
        """`frozen` and `unheld`: names of parameters."""
        return {"frozen": list(self._frozen), "unheld": list(self._unheld)}

    def facts_at_end(self) -> Mapping[str, list[str]]:
        """`facts`, without those unheld that something else has trained; and names of others.

        `changed`: frozen parameters whose numbers are others than at the start. `replaced`: that
        have a gradient and stand where one was that only the optimizer still holds.
        `unregistered`: tensors that the model keeps past its parameters, which have a gradient,
        which the optimizer does not hold, and which are as they were at the start.
        """
        now = _prints({**self._kept, **self._frozen, **self._unheld})
        still = {name for name, p in self._frozen.items() if not p.requires_grad}
        moved = _moved(self._prints, now)
        held = self._held()
        return {
            "frozen": list(self._frozen),
            "unheld": [name for name in self._unheld if name not in moved],
            "changed": [name for name in now if name in still & moved],
            "replaced": self._replaced(held),
            "unregistered": [
                name
                for name, each in self._kept.items()
                if each.grad is not None and name not in moved and id(each) not in held
            ],
        }

    def _replaced(self, held: set[int]) -> list[str]:
        new = dict(self._model.named_parameters())
        known = {id(parameter) for parameter in new.values()}
        return [
            name
            for name, old in self._trained.items()
            if id(old) in held - known
            and (p := new.get(name)) is not None
            and p.grad is not None
            and id(p) not in held
        ]


def _learns(tensor: Tensor) -> bool:
    return tensor.is_leaf and tensor.requires_grad and not torch.nn.parameter.is_lazy(tensor)


Prints = dict[str, tuple[torch.dtype, int]]


def _moved(before: Prints, now: Prints) -> set[str]:
    """The names of those whose numbers are others; one of another dtype was converted."""
    return {
        name
        for name, (dtype, total) in now.items()
        if name in before and before[name][0] is dtype and before[name][1] != total
    }


@torch.no_grad()
def _prints(named: Mapping[str, Tensor]) -> Prints:
    """The sum of each parameter's bits read as integers: exact, so that any one change shows."""
    dense = {n: p for n, p in named.items() if p.numel() and p.layout is torch.strided}
    sums = {n: _bits(p).sum(dtype=torch.int64) for n, p in dense.items() if not p.is_meta}
    return {name: (named[name].dtype, int(total)) for name, total in sums.items()}


def _bits(parameter: Tensor) -> Tensor:
    numbers = local(parameter.detach())
    if numbers.is_complex():
        numbers = torch.view_as_real(numbers)
    return numbers.view(INTEGERS[numbers.dtype.itemsize])
