"""Whether what a cut leaves only adds to the loss: its value moves the loss, and no gradient."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.ancestry import nodes_behind
from probes.raised import source_here
from probes.slopes.slope import Exact
from probes.slopes.uncut import Cut, replaced

FAR = 10.0  # times its own size: what bends, as an absolute value does, bends within that
SEEDS = 3  # of other values in its place
SAME = 1e-9  # of the largest gradient


def only_adds(exact: Exact, cut: Cut) -> bool:
    """Whether the loss follows what the cut leaves, and no gradient does, however it is changed.

    A target, a weight or a baseline that is cut off on purpose changes gradients; a term does not.
    What is to be shown in place of what is learned from, `x + (y - x).detach()`, is no such term.
    """
    try:
        before = exact.gradient()
        for seed in range(SEEDS):
            losses: list[Tensor] = []
            shaken = _Shaken(cut, seed)
            after = exact.gradient(shaken, losses.append)
            if float(losses[0].detach()) == exact.loss or not _is_same(before, after):
                return False
            if any(_stands_in(losses[0], each) for each in shaken.cut_off):
                return False
    except Exception:  # such as draws by what is no probability any more
        return False
    return True


def _stands_in(loss: Tensor, cut_off: Tensor) -> bool:
    """Whether a difference was cut off of which one side reaches the loss by itself."""
    node = cut_off.grad_fn
    if node is None or not node.name().startswith("Sub"):
        return False
    sides = {each for each, _ in node.next_functions if each is not None}
    return not sides.isdisjoint(nodes_behind(loss))


def _is_same(one: Mapping[str, Tensor | None], two: Mapping[str, Tensor | None]) -> bool:
    before = {name: grad.to_dense() for name, grad in one.items() if grad is not None}
    after = {name: grad.to_dense() for name, grad in two.items() if grad is not None}
    largest = max((float(grad.abs().max()) for grad in before.values()), default=0.0)
    return (
        largest > 0
        and before.keys() == after.keys()
        and all(float((after[n] - g).abs().max()) <= SAME * largest for n, g in before.items())
    )


class _Shaken:
    """While it is entered, what this cut leaves has other values. cut_off: what was detached."""

    def __init__(self, cut: Cut, seed: int) -> None:
        self.cut_off: list[Tensor] = []
        self._cut = cut
        self._chance = torch.Generator().manual_seed(seed)
        self._given = ExitStack()

    def __enter__(self) -> None:
        if self._cut.kind == "no_grad":
            self._shake_blocks()
            return
        detach: Any = Tensor.detach

        def detached(tensor: Tensor) -> Tensor:
            left: Tensor = detach(tensor)
            if source_here() != self._cut.source:
                return left
            self.cut_off.append(tensor)
            return self.other(left)

        self._given.enter_context(replaced(Tensor, "detach", detached))

    def _shake_blocks(self) -> None:
        enter: Any = torch.no_grad.__enter__
        leave: Any = torch.no_grad.__exit__
        inside: list[_Others | None] = []

        def entered(guard: Any) -> None:
            enter(guard)
            mode = _Others(self) if source_here() == self._cut.source else None
            inside.append(mode)
            if mode is not None:
                mode.__enter__()  # type: ignore[no-untyped-call]  # torch leaves it untyped

        def left(guard: Any, *raised: Any) -> None:
            mode = inside.pop()
            if mode is not None:
                mode.__exit__(*raised)  # type: ignore[no-untyped-call]
            leave(guard, *raised)

        self._given.enter_context(replaced(torch.no_grad, "__enter__", entered))
        self._given.enter_context(replaced(torch.no_grad, "__exit__", left))

    def other(self, left: Tensor) -> Tensor:
        """Other values of its size, without a gradient."""
        if not left.is_floating_point() or not left.numel():
            return left
        noise = torch.randn(left.shape, generator=self._chance, dtype=left.dtype, device="cpu").to(
            left.device
        )
        return left + FAR * (left.abs().max() + 1e-3) * noise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._given.close()


class _Others(TorchFunctionMode):
    """While it is entered, every new tensor has other values."""

    def __init__(self, shaken: _Shaken) -> None:
        super().__init__()
        self._shaken = shaken

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have; what it made is another."""
        out = func(*args, **(kwargs or {}))
        new = isinstance(out, Tensor) and not out.requires_grad
        return self._shaken.other(out) if new and all(out is not each for each in args) else out
