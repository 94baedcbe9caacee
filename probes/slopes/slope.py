"""The slope of the loss in float64 along a direction: by the backward pass, and by differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probes.batch import map_leaves, take
from probes.experiment import Experiment, attempted, copied
from probes.finding import ExperimentError
from probes.patch import Widened, wider
from probes.replay import Snapshot, replay
from probes.slopes.settled import settled
from probes.slopes.shifted import Shifts
from probes.subject import Batch

SAMPLES = 4  # are enough: what is wrong with a gradient is wrong for each
STEPS = (1e-4, 1e-5, 1e-6)  # of a parameter's size; the first that is smooth enough counts
SMOOTH = 1e-3  # two steps, one half of the other, give slopes as near as this
APART = 2e-3  # from so large a share of the slope on, two slopes are not the same
NOISE = 1e-14  # what rounding does to a loss in float64, as a share of it

Direction = Mapping[str, Tensor]
"""Parameter name to how far it moves."""


@dataclass(frozen=True, slots=True)
class Slope:
    """One slope of the loss.

    back: what the backward pass says. real: what differences say; None where they do not settle,
    as over a kink. error: how far off the differences may be. flat: the loss is the same on both
    sides, by all steps.
    """

    back: float
    real: float | None
    error: float
    flat: bool

    @property
    def agree(self) -> bool:
        """Whether they are the same, or cannot be told apart."""
        if self.real is None:
            return True
        allowed = max(APART * max(abs(self.back), abs(self.real)), 10 * self.error)
        return abs(self.back - self.real) <= allowed


class Exact:
    """A subject's loss in float64, from one state, as often as it is asked for.

    What it draws at random is the same each time. Inside of `float64` only.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._subject = experiment.subject
        self._batch = copied(_few(experiment))
        self.model: nn.Module = experiment.subject.model
        self._is_cast = True  # whether something of the subject's turns to a narrower float

    @contextmanager
    def float64(self) -> Iterator[None]:
        """Model and batch are float64 inside, and what they were afterwards.

        Raises ExperimentError where the model refuses, or is not repeatable.
        """
        before = torch.get_default_dtype()
        with wider(self.model, self._batch, torch.float64):
            torch.set_default_dtype(torch.float64)
            try:
                with settled(self.model, self._pass):
                    self._snapshot = Snapshot.take(self.model)
                    with attempted("in float64 the loss"):
                        self._check()
                    yield
            finally:
                torch.set_default_dtype(before)

    @contextmanager
    def asked_of_batch(self) -> Iterator[None]:
        """Inside, what the loss is given of the batch is asked for its gradient as well."""
        before = self._batch
        self._batch = map_leaves(before, lambda _, leaf: _asked(leaf))
        try:
            yield
        finally:
            self._batch = before

    def _check(self) -> None:
        loss, again = self.value(), self.value()
        if not math.isfinite(loss):
            raise ExperimentError("the loss in float64 is not finite")
        if abs(loss - again) > 10 * NOISE * abs(loss):
            raise ExperimentError("the loss in float64 is another one each time")
        self.loss, self.names = loss, [n for n, p in self.model.named_parameters()]

    def _pass(self) -> None:
        """The loss has run once, and what it wrote stays."""
        with attempted("in float64 the loss"), Widened(lambda: True, torch.float64):
            self._subject.loss(self.model, map_leaves(self._batch, lambda _, leaf: _own(leaf)))

    def _run(
        self,
        direction: Direction | None,
        size: float,
        back: bool,
        shifts: Shifts | None,
        around_loss: AbstractContextManager[object] | None = None,
        look: Callable[[Tensor], None] | None = None,
    ) -> tuple[float, Mapping[str, Tensor | None]]:
        def step() -> Tensor:
            for name, parameter in self.model.named_parameters():
                if direction is not None and name in direction:
                    parameter.data.add_(direction[name], alpha=size)
            batch = map_leaves(self._batch, lambda _, leaf: _own(leaf))
            with around_loss or nullcontext():
                loss = self._subject.loss(self.model, batch)
            if look is not None:
                look(loss)
            if back and loss.requires_grad:
                loss.backward()
            return loss.detach()

        around: list[AbstractContextManager[object]] = [] if shifts is None else [shifts]
        wide = Widened(lambda: True, torch.float64)
        if self._is_cast:
            around.append(wide)
        done = replay(step, self.model, self._snapshot, under=around)
        self._is_cast = wide.calls > 0
        return float(done.loss), done.grads

    def value(self, direction: Direction | None = None, size: float = 0.0) -> float:
        """The loss with the parameters moved."""
        return self._run(direction, size, False, None)[0]

    def gradient(
        self,
        around_loss: AbstractContextManager[object] | None = None,
        look: Callable[[Tensor], None] | None = None,
    ) -> Mapping[str, Tensor | None]:
        """The gradient by parameter. look: is called with the loss before its backward pass."""
        return self._run(None, 0.0, True, None, around_loss, look)[1]

    def along(self, direction: Direction, back: float) -> Slope:
        """The slope along a direction, beside what the backward pass says of it."""
        return self._slope(lambda size: self.value(direction, size), back)

    def left(self, direction: Direction | None = None, size: float = 0.0) -> dict[str, Tensor]:
        """What stands in every parameter when the loss has run, from parameters that were moved."""
        found: dict[str, Tensor] = {}

        def look(_: Tensor) -> None:
            found.update({n: p.detach().clone() for n, p in self.model.named_parameters()})

        self._run(direction, size, False, None, look=look)
        return found

    def at(self, events: Sequence[tuple[str, int, str]]) -> dict[tuple[str, int, str], float]:
        """What the backward pass says of each event's slope: a module's call, its in or out."""
        shifts = Shifts(self.model, dict.fromkeys(events, 0.0), learn=True)
        self._run(None, 0.0, True, shifts)
        return shifts.slopes()

    def through(self, event: tuple[str, int, str], back: float, seed: int = 0) -> Slope:
        """The slope along a random direction of what passes at an event."""

        def value(size: float) -> float:
            return self._run(None, 0.0, False, Shifts(self.model, {event: size}, seed=seed))[0]

        return self._slope(value, back)

    def _slope(self, value: Callable[[float], float], back: float) -> Slope:
        flat, found, bends = True, None, list[tuple[float, float, float]]()
        for size in STEPS:
            noise = NOISE * max(abs(self.loss), 1e-300) / size
            up, down, near, nearer = (value(x) for x in (size, -size, size / 2, -size / 2))
            whole, half = (up - down) / (2 * size), (near - nearer) / size
            bends.append((up - 2 * self.loss + down, near - 2 * self.loss + nearer, size))
            flat = flat and abs(whole) <= noise and abs(half) <= noise
            real = (4 * half - whole) / 3
            error = abs(half - whole) / 3 + 4 * noise
            if not math.isfinite(real):
                continue
            if found is None or error < found[1]:
                found = real, error
            if error <= SMOOTH * max(abs(real), abs(back)):
                break
        if found is not None and self._is_kink(*bends[-1], max(abs(found[0]), abs(back))):
            return Slope(back, None, math.inf, False)
        if found is None or found[1] > 10 * SMOOTH * max(abs(found[0]), abs(back)):
            return Slope(back, None, math.inf, False)
        return Slope(back, found[0], found[1], flat and back != 0)

    def _is_kink(self, whole: float, half: float, size: float, slope: float) -> bool:
        """Whether the slopes on both sides part, and no less at half the step.

        whole, half: second differences of the loss at this step size and at half of it.
        """
        noise = 40 * NOISE * abs(self.loss)
        apart = abs(half) / (size / 2)
        return abs(half) > noise and apart > APART * slope and abs(whole) < 3 * abs(half)


def _few(experiment: Experiment) -> Batch:
    """A batch of a few samples, where it can be cut."""
    if experiment.size <= SAMPLES:
        return experiment.batch
    fewer = take(experiment.batch, range(SAMPLES), experiment.layout)
    try:
        experiment.evaluate(fewer)
    except ExperimentError:
        return experiment.batch  # the model knows how large its batches are
    return fewer


def _own(leaf: object) -> object:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _asked(leaf: object) -> object:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return leaf.detach().clone().requires_grad_()
    return leaf


def direction(parameters: Mapping[str, Tensor], seed: int) -> Direction:
    """A random direction, each parameter's as large as its own entries are."""
    chance = torch.Generator().manual_seed(seed)
    found = {}
    for name, parameter in parameters.items():
        noise = torch.randn(parameter.shape, generator=chance, dtype=torch.float64, device="cpu")
        size = float(parameter.detach().double().square().mean().sqrt()) or 1e-2
        found[name] = (noise * size).to(parameter.device, parameter.dtype)
    return found


def dot(gradient: Mapping[str, Tensor | None], along: Direction) -> float:
    """The slope along the direction that a gradient claims."""
    total = 0.0
    for name, way in along.items():
        grad = gradient.get(name)
        if grad is not None:
            total += float((grad.to_dense().double() * way.double()).sum())
    return total
