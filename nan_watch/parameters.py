"""Which parameters are frozen, which the optimizer does not hold, and whether frozen ones move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


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
def _prints(named: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Sum, norm and weighted sum of each parameter, as bytes, so that a NaN equals itself."""
    prints = [torch.stack(_sums(parameter)) for parameter in named.values() if parameter.numel()]
    names = [name for name, parameter in named.items() if parameter.numel()]
    rows = [row.cpu().numpy() for row in prints]
    return {name: row.tobytes() for name, row in zip(names, rows, strict=True)}


def _sums(parameter: Tensor) -> list[Tensor]:
    flat = parameter.detach().reshape(-1)  # (number,)
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat  # (number,)
    wide = flat.double()
    turns = torch.arange(1, len(wide) + 1, dtype=torch.float64, device=wide.device)
    return [wide.sum(), torch.linalg.vector_norm(wide), (wide * turns).sum()]
