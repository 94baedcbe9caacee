"""Which tensors a backward pass starts from: what is minimised, whatever a step returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def noted_roots(note: Callable[[Tensor], None], live: bool = False) -> Iterator[None]:
    """Inside, `note` is called with each single number that a backward pass starts from, detached.

    live: as it is, with its graph, which it must not keep.

    `Tensor.backward` and `torch.autograd.backward` are the same call; it is passed on unchanged.
    """

    def looked(roots: Sequence[Tensor], given: Any) -> None:
        if given is None:  # else it is a part of one, as in checkpointing
            for root in roots:
                if root.numel() == 1:
                    note(root if live else root.detach().reshape(()))

    with noted_starts(looked):
        yield


@contextmanager
def noted_starts(
    note: Callable[[Sequence[Tensor], Any], None], after: Callable[[], None] | None = None
) -> Iterator[None]:
    """Inside, `note` is called with what each backward pass starts from, and the gradients given.

    The tensors are the loop's own, with their graph, before the pass has run. after: is called
    when it has.
    """
    before = torch.autograd.backward

    def backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> None:
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        note(roots, grad_tensors)
        before(roots if not isinstance(tensors, Tensor) else tensors, grad_tensors, *args, **kwargs)
        if after is not None:
            after()

    torch.autograd.backward = backward
    try:
        yield
    finally:
        torch.autograd.backward = before
