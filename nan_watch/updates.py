"""How large an update is beside its weights: a few parameters a step, in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nan_watch.sampled.sampling import share_measured
from probes.wrapped import local

A_STEP = 2  # parameters looked at in a step
LATER = 1  # the same once the sites are dealt into shares
BLOCKS, BLOCK = 64, 256  # what is looked at of a larger parameter: even blocks of its numbers


class Updates:
    """Takes two norms of each parameter whose turn it is: of its update and of its weights."""

    def __init__(self) -> None:
        self._steps = 0
        self._turn = 0
        self._old: list[tuple[str, Tensor, Tensor]] = []
        self.names: list[str] = []
        self._waiting: list[Tensor] = []

    def before(self, named: Mapping[str, Tensor], held: Sequence[bool]) -> None:
        """Copies of the parameters whose turn it is have been taken; the step may write them.

        named: every parameter by name. held: which of them the optimizer holds.
        """
        self._old = []
        most = A_STEP if share_measured(self._steps) is None else LATER
        self._steps += 1
        names = list(named)
        for _ in names:
            place = self._turn % len(names)
            self._turn = place + 1
            name = names[place]
            parameter = named[name]
            if held[place] and parameter.grad is not None and parameter.numel() > 0:
                self._old.append((name, parameter, sample(parameter).clone()))
                if len(self._old) == most:
                    return

    def after(self) -> None:
        """The norms are on their way; the copies are gone."""
        if not self._old:
            return
        names, parameters, old = zip(*self._old, strict=True)
        moved = torch._foreach_sub([sample(parameter) for parameter in parameters], old)
        norms = torch._foreach_norm([*moved, *old])
        for name, update, weights in zip(names, norms, norms[len(old) :], strict=False):
            self.names.append(name)
            self._waiting += (update, weights)
        self._old = []

    @property
    def waiting(self) -> list[Tensor]:
        """What is to be read: for every name the update's norm and the weights'."""
        return self._waiting

    def take(self, numbers: Sequence[float]) -> dict[str, float]:
        """Name to norm of the update over norm of the weights; weights of zero have no ratio."""
        pairs = zip(self.names, numbers[0::2], numbers[1::2], strict=True)
        ratios = {name: float(update / weight) for name, update, weight in pairs if weight != 0}
        self.names, self._waiting = [], []
        return ratios


def is_whole(numbers: int) -> bool:
    """Whether each number is looked at of a parameter that has so many."""
    return numbers <= BLOCKS * BLOCK


def sample(parameter: Tensor) -> Tensor:
    """The parameter's numbers, or an even sample of them; a view where it can be."""
    flat = local(parameter.detach()).reshape(-1)  # (number,)
    if is_whole(flat.numel()):
        return flat
    return flat.as_strided((BLOCKS, BLOCK), (flat.numel() // BLOCKS, 1))  # (block, number)
