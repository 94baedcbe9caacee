"""Steps that a GradScaler skips: told apart from poisoned ones, with the parameter to blame."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from nan_watch.state import Poisoned

KEPT = 20  # skipped steps that are kept
TRIED = 32  # skipped steps that are all replayed; scalers begin with a scale that is too large
NO_OVERFLOW = 1.0  # a scale that overflows nothing by itself


@dataclass(frozen=True, slots=True)
class Skipped:
    """A step that a GradScaler skipped.

    parameters: whose gradient was not finite, in the model's order. scale: the loss's.
    """

    step: int
    parameters: tuple[str, ...]
    scale: float


class Scalers:
    """Knows while it is open which scaler steps the optimizer, and tells of steps not taken.

    `scale` is the scale of the step at work, 1 where no scaler steps. `skipped` are the newest
    steps that were skipped, `count` how many were; skip: called for each that the optimizer never
    saw. overflows: told a scale, whether the step at work is finite without it, as far as that can
    be known.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        named: Callable[[], Mapping[str, Tensor]],
        skip: Callable[[], None],
        overflows: Callable[[float], bool],
    ) -> None:
        self._optimizers = [id(each) for each in optimizers]
        self._named = named
        self._skip = skip
        self._overflows = overflows
        self.scale = NO_OVERFLOW
        self.at_work = False  # whether a scaler's step is
        self.seen = False  # whether the optimizer was stepped by the call that is at work
        self.skipping = False  # whether a step that it was kept from is at work
        self.skipped: list[Skipped] = []
        self.count = 0
        self._stepped: Optimizer | None = None
        self._left = 0  # steps that left gradients alone which overflowed

    def __enter__(self) -> Self:
        """Every scaler's step is looked at."""
        if not _OPEN:
            _patch()
        _OPEN.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nobody looks for us any more."""
        _OPEN.remove(self)
        if not _OPEN:
            _unpatch()

    def excuse(self, step: int, grads: Sequence[Poisoned], skipped: bool) -> bool:
        """Whether the step is a scaler's to skip, and its gradients overflowed by its scale.

        One that goes on to skip at a scale of 1 has no such excuse: they are not finite by
        themselves. Nor has one whose replay without the scale is not finite either; each of the
        first TRIED is replayed, and the 64th, the 128th and so on. skipped: whether the optimizer
        was told to take no step. Gradients of parameters that another optimizer holds are excused
        as well: this step does not write them.
        """
        if not (self.skipping or skipped):
            return self._leaves(grads)
        told = Skipped(step, tuple(each.name for each in grads), self.scale)
        self.skipped = [*self.skipped, told][-KEPT:]
        self.count += 1
        if not self.at_work:
            return True
        return self._by_its_scale(self.count)

    def _leaves(self, grads: Sequence[Poisoned]) -> bool:
        """Whether another optimizer holds all that these belong to, and the scale is to blame."""
        if self._stepped is None or not grads:
            return False
        held = {id(each) for group in self._stepped.param_groups for each in group["params"]}
        if any(id(self._named()[each.name]) in held for each in grads):
            return False
        self._left += 1
        return self._by_its_scale(self._left)

    def _by_its_scale(self, count: int) -> bool:
        """Whether the scale explains what is not finite; not tried again each time."""
        if count > TRIED and count & (count - 1):
            return self.scale > NO_OVERFLOW
        return self.scale > NO_OVERFLOW and self._overflows(self.scale)

    def facts(self) -> Mapping[str, Any]:
        """`skipped`, for the record's settings, where there are any."""
        return {"skipped": [asdict(each) for each in self.skipped]} if self.skipped else {}

    def unscaled(self, norms: Mapping[str, float]) -> Mapping[str, float]:
        """Norms of scaled gradients, without the scale."""
        if self.scale == NO_OVERFLOW:
            return norms
        return {name: norm / self.scale for name, norm in norms.items()}

    def around(self, scaler: GradScaler, optimizer: Optimizer, step: Callable[[], Any]) -> Any:
        """The scaler's step has run; where the optimizer was kept from stepping, it is told."""
        known = id(optimizer) in self._optimizers and scaler.is_enabled()
        if not known or self.at_work:  # at work: this is a replay
            return step()
        self.seen, self.at_work, self.scale = False, True, float(scaler.get_scale())
        self._stepped = optimizer
        try:
            result = step()
            if not self.seen:
                self.skipping = True
                with _unstepped(scaler):
                    self._skip()
            return result
        finally:
            self.scale, self.skipping, self.at_work = NO_OVERFLOW, False, False
            self._stepped = None


@contextmanager
def _unstepped(scaler: GradScaler) -> Iterator[None]:
    """The scaler has not seen the step, which may be replayed; afterwards it is as it was."""
    kept = copy.deepcopy(vars(scaler))
    scaler._per_optimizer_states.clear()
    try:
        yield
    finally:
        vars(scaler).update(kept)


_OPEN: list[Scalers] = []
_TORCHS: list[Any] = []


def _patch() -> None:
    own = GradScaler.step
    _TORCHS.append(own)

    def step(self: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        def run() -> Any:
            return own(self, optimizer, *args, **kwargs)

        for each in _OPEN:
            run = _within(each, self, optimizer, run)
        return run()

    GradScaler.step = step  # type: ignore[method-assign]


def _within(each: Scalers, scaler: GradScaler, optimizer: Optimizer, run: Callable[[], Any]) -> Any:
    return lambda: each.around(scaler, optimizer, run)


def _unpatch() -> None:
    GradScaler.step = _TORCHS.pop()  # type: ignore[method-assign]
