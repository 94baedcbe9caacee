"""What every backward pass of a step leaves in parameters, and whether anybody has any of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from probes.ancestry import leaves_behind
from probes.raised import source_here
from probes.stepping.roots import noted_starts
from probes.stepping.unclipped import in_clipping

State = tuple[Tensor | None, int]


@dataclass(slots=True)
class Pass:
    """One backward pass that left a gradient in parameters.

    alive: the ids of the parameters that still have it. used: whether an optimizer was stepped
    with one of them, or the user's code read one, or the pass gives another leaf a gradient, such
    as an input that is to be attacked. cleared: the line of the `zero_grad` after which none is.
    """

    alive: set[int]
    used: bool = False
    cleared: str | None = None


class Passes:
    """Notes the passes of a model's step, in their order, and what becomes of each."""

    def __init__(self, model: nn.Module) -> None:
        self.every: list[Pass] = []
        self._parameters = list(model.parameters())
        self._before: Mapping[int, State] = {}
        self._serves = self._partial = self._busy = False
        self._waiting: set[int] = set()  # where the gradients lie that nobody has had

    @contextmanager
    def noted(self, reads: bool = False) -> Iterator[None]:
        """Inside, passes are noted. reads: also whether the user's code reads a gradient."""
        with ExitStack() as inside:
            inside.enter_context(noted_starts(self._begins, self._ends))
            for owner in (Optimizer, nn.Module):
                inside.enter_context(_wrapped(owner, self._clears))
            inside.callback(register_optimizer_step_pre_hook(self._steps).remove)
            if reads:
                inside.enter_context(_Reads(self))
            yield

    @property
    def lost(self) -> list[Pass]:
        """Those that are gone, and nobody has had any of them; none where nobody has any at all."""
        self._settle(None)
        gone = [each for each in self.every if not each.alive and not each.used]
        return gone if any(each.used for each in self.every) else []

    def is_waiting(self, tensor: Tensor) -> bool:
        """Whether it is such a gradient, and not at work for a pass or for `zero_grad`."""
        return bool(self._waiting) and not self._busy and _place(tensor) in self._waiting

    def read(self, tensor: Tensor) -> None:
        """The user's code has computed something of the gradient."""
        here = {id(p) for p in self._parameters if _place(p.grad) == _place(tensor)}
        self._use(here)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        busy, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = busy

    def _begins(self, roots: Sequence[Tensor], given: Any) -> None:
        self._settle(None)
        known = {id(p) for p in self._parameters}
        self._partial = given is not None  # of another pass, as in checkpointing
        self._serves = any(id(leaf) not in known for leaf in leaves_behind(*roots))
        self._before = {id(p): _state(p.grad) for p in self._parameters}
        self._busy = True

    def _ends(self) -> None:
        self._busy = False
        came = {id(p) for p in self._parameters if _is_some(p.grad) and self._is_new(p)}
        if came and not self._partial:
            self.every.append(Pass(came, used=self._serves))
        self._settle(None)

    def _is_new(self, p: Tensor) -> bool:
        grad, version = self._before.get(id(p), (None, 0))
        return p.grad is not grad or p.grad is None or p.grad._version != version

    def _clears(self, clear: Callable[[], Any]) -> None:
        self._settle(None)
        with self._at_work():
            clear()
        self._settle(source_here())

    def _steps(self, optimizer: Optimizer, *_: Any) -> None:
        self._settle(None)
        self._use({id(p) for group in optimizer.param_groups for p in group["params"]})

    def _use(self, parameters: set[int]) -> None:
        for each in self.every:
            each.used |= bool(each.alive & parameters)
        self._settle(None)

    def _settle(self, source: str | None) -> None:
        """What has no gradient any more was cleared."""
        with self._at_work():
            some = {id(p) for p in self._parameters if _is_some(p.grad)}
        for each in self.every:
            if each.alive and not each.alive & some:
                each.cleared = source
            each.alive &= some
        few = set[int]().union(*(each.alive for each in self.every if not each.used))
        places = (_place(p.grad) for p in self._parameters if id(p) in few)
        self._waiting = {place for place in places if place is not None}


class _Reads(TorchDispatchMode):
    """Tells of every operator that reads a gradient, but for those that clip or clear it."""

    def __init__(self, passes: Passes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._passes = passes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__.partition(".")[0] not in ("zero_", "_foreach_zero_"):
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and self._passes.is_waiting(leaf) and not in_clipping():
                    self._passes.read(leaf)
        return func(*args, **(kwargs or {}))


@contextmanager
def _wrapped(owner: Any, clears: Callable[[Callable[[], Any]], None]) -> Iterator[None]:
    before = owner.zero_grad

    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> None:
        clears(lambda: before(self, *args, **kwargs))

    owner.zero_grad = zero_grad
    try:
        yield
    finally:
        owner.zero_grad = before


def _state(grad: Tensor | None) -> State:
    return grad, 0 if grad is None else grad._version


def _is_some(grad: Tensor | None) -> bool:
    return grad is not None and bool((grad.detach().to_dense() != 0).any())


def _place(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    held = tensor._values() if tensor.layout is torch.sparse_coo else tensor
    return held.untyped_storage().data_ptr() if held.layout is torch.strided else None
