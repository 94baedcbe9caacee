"""A tensor of a model as it was, to be given back in the memory that it lay in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor under its name in a module, with the memory it lay in, and a copy of that.

    leaf: no graph stood behind it.
    """

    owner: dict[str, Tensor | None]
    name: str
    tensor: Tensor | None
    memory: Tensor | None
    copy: Tensor | None
    leaf: bool = True

    @classmethod
    def of(cls, owner: dict[str, Tensor | None], name: str) -> Kept:
        """The one that stands there now."""
        tensor = owner[name]
        if tensor is None:
            return cls(owner, name, None, None, None)
        memory = tensor.detach()
        return cls(owner, name, tensor, memory, memory.clone(), tensor.is_leaf)

    def restore(self) -> None:
        """It stands there again, with its numbers."""
        self.owner[self.name] = self.tensor
        if self.tensor is None or self.copy is None:
            return
        if self.memory is not None and _lies_elsewhere(self.tensor, self.memory):
            self.tensor.data = self.memory  # it may have been laid into another's memory
        if self.tensor.shape != self.copy.shape:  # it was resized in place
            self.tensor.data = self.copy.clone()
        else:  # through `.data`: a graph that saved the tensor must not think that it changed
            self.tensor.data.copy_(self.copy)
        if self.leaf:
            let_go(self.tensor)


def let_go(tensor: Tensor) -> None:
    """No graph stands behind it, though it was written in place and a `no_grad` around it undone.

    A view of another tensor keeps its own.
    """
    if not tensor.is_leaf and not tensor._is_view():
        tensor.detach_()


def _lies_elsewhere(tensor: Tensor, memory: Tensor) -> bool:
    plain = type(memory) is Tensor and memory.layout is tensor.layout is torch.strided
    same = tensor.shape == memory.shape and tensor.dtype == memory.dtype
    return plain and same and tensor.data_ptr() != memory.data_ptr()
