"""Copies of many small tensors, taken at once and put back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, distributed, nn

from probes.replay import Snapshot

EACH = 2**20  # bytes that may be copied at every step
PLAIN = {Tensor, nn.Parameter}


@dataclass(frozen=True, slots=True)
class Copied:
    """Copies of tensors of these shapes: end to end in one, or each by itself."""

    tensors: Sequence[Tensor]
    shapes: Sequence[torch.Size] = ()

    @torch.no_grad()
    def each(self) -> list[Tensor]:
        """They, in the order of what was copied."""
        if not self.shapes:
            return list(self.tensors)
        parts = self.tensors[0].split([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


@torch.no_grad()
def copied(sources: list[Tensor], most: int = EACH) -> Copied | None:
    """A copy of each; None where one is no plain tensor, or all are more than so many bytes."""
    if not {type(each) for each in sources} <= PLAIN:
        return None
    kinds = {(each.dtype, each.device) for each in sources}
    size = max((dtype.itemsize for dtype, _ in kinds), default=1)
    if size * sum(map(Tensor.numel, sources)) > most:
        return None
    if any(each.layout is not torch.strided for each in sources):
        return None
    if len(kinds) != 1:
        return Copied([each.clone() for each in sources])
    return Copied([flattened(sources)], [each.shape for each in sources])


@torch.no_grad()
def norms(tensors: list[Tensor]) -> list[Tensor]:
    """The norm of all of them together where they are of one kind, else of each."""
    if len({(each.dtype, each.device) for each in tensors}) == 1:
        return [flattened(tensors).norm()]
    return list(torch._foreach_norm(tensors)) if tensors else []


def flattened(tensors: list[Tensor]) -> Tensor:
    """(number,) a copy of all of them, end to end: one call costs less than one for each."""
    if len(tensors) == 1:  # which would not be copied
        return tensors[0].flatten().clone()
    return torch._C._nn.flatten_dense_tensors(tensors)


def starting(
    model: nn.Module, parameters: Iterable[tuple[Tensor, Tensor]], snapshot: Snapshot
) -> Snapshot:
    """The snapshot with the model's parameters, those of the pairs as they were copied."""
    now = [(parameter, copy, parameter.detach().clone()) for parameter, copy in parameters]
    try:
        for parameter, copy, _ in now:
            parameter.data.copy_(copy)
        return replace(snapshot, parameters=Snapshot.take(model, parameters=True).parameters)
    finally:
        for parameter, _, was in now:
            parameter.data.copy_(was)


def one_process() -> bool:
    """Whether there is no other process that what runs again might wait for."""
    several = distributed.is_available() and distributed.is_initialized()
    return not several or distributed.get_world_size() == 1


def as_sick(again: Sequence[Tensor], now: Sequence[Tensor]) -> bool:
    """Whether something is not finite again, and in the same places."""
    pairs = [(one.isfinite(), two.isfinite()) for one, two in zip(again, now, strict=True)]
    return not all(bool(one.all()) for one, _ in pairs) and all(
        torch.equal(*each) for each in pairs
    )
