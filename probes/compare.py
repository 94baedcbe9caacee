"""Where two executions first part: the same call with one thing changed, at equal shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from probes.bus import Kind
from probes.execution import Event, Ran, glance
from probes.replay import Snapshot

NOISES = 10.0  # a difference counts from so many times the noise on
FILL = -9000.0  # masks write this or less, over and over; what is left says how large values are

Look = Callable[[str, Tensor], Tensor | None]
"""Of a site or output and its value: true where to compare, None where that cannot be told."""

Axes = Callable[[str, tuple[int, ...]], Sequence[str]]
"""Of a site or output and its shape: how its axes are called."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One site, or output, whose value differs.

    largest: of the absolute differences. relative: to the largest unchanged value. noise: what
    two unchanged runs differed by there. limit: up to which it would be noise or rounding.
    where: place of the largest difference, by axis name.
    """

    site: str
    module: str
    kind: Kind
    call: int
    largest: float
    relative: float
    noise: float
    limit: float
    where: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether it is more than noise and rounding."""
        return self.largest > self.limit


@dataclass(frozen=True)
class Comparison:
    """Where the changed run parts from the unchanged one.

    outputs: the outputs that differ. noise: the largest difference of two unchanged runs, over
    all outputs; 0 where they repeat. look: gives the sites that differ in forward order, and by
    name the one where the runs part. measured: every output that was looked at, be it noise.
    """

    outputs: tuple[Difference, ...]
    noise: float
    look: Callable[[], Iterator[Difference | str]] = field(repr=False)
    measured: tuple[Difference, ...] = ()

    @cached_property
    def _looked(self) -> tuple[Difference | str, ...]:
        return tuple(self.look())

    @property
    def sites(self) -> tuple[Difference, ...]:
        """The sites that differ, in forward order."""
        return tuple(each for each in self._looked if not isinstance(each, str))

    @cached_property
    def start(self) -> Difference | None:
        """The first site that differs; the others are not looked at for it."""
        seen = self._looked if "_looked" in vars(self) else self.look()
        return next((each for each in seen if not isinstance(each, str)), None)

    @property
    def parted(self) -> str | None:
        """The site from which the runs call other modules, or at other shapes; None if nowhere."""
        return next((each for each in self._looked if isinstance(each, str)), None)

    def only(self, keep: Callable[[Difference], bool]) -> Comparison:
        """The same with those sites alone that are to be kept."""
        return replace(self, look=lambda: (e for e in self.look() if isinstance(e, str) or keep(e)))

    @property
    def first(self) -> Difference | None:
        """The first site whose value differs; an output where no site does."""
        return self.start or next(iter(self.outputs), None)

    @property
    def deterministic(self) -> bool:
        """Whether two unchanged runs gave the same outputs to the bit."""
        return self.noise == 0


SAME = Comparison((), 0.0, lambda: iter(()))
"""Of two executions that were not found to part."""


class Baseline:
    """A call that has run twice unchanged; changed runs are compared with it.

    call: takes what is to be changed, such as a batch. The two runs, and every other, start from
    the state of the model and of the generators in which the baseline was made. repeats: the call
    is known to give the same to the bit, and is run once.
    """

    def __init__(
        self,
        call: Callable[[Any], Any],
        given: Any,
        model: nn.Module,
        own: bool = False,
        repeats: bool = False,
    ) -> None:
        self._own = own
        self._call = call
        self._model = model
        self._snapshot = Snapshot.take(model, parameters=True)
        self.ran = self.run(given)
        self._again = self.ran if repeats else self.run(given)
        pairs = [(value, self._again.outputs.get(name)) for name, value in self.ran.outputs.items()]
        self.noise = max((gap(a, b)[0] for a, b in pairs if b is not None), default=0.0)

    def run(
        self,
        given: Any,
        before: Callable[[], None] | None = None,
        under: Sequence[AbstractContextManager[Any]] = (),
    ) -> Ran:
        """The call has run with this, from the same state; `before` was called just before it."""

        def call() -> Any:
            if before is not None:
                before()
            return self._call(given)

        known = self.ran.rounding if "ran" in vars(self) else None
        return glance(call, self._model, self._snapshot, under=under, own=self._own, rounding=known)

    @property
    def moving(self) -> Difference | None:
        """The first site that two unchanged runs do not agree on; None where they do."""
        return _Judge(0.0, everywhere, unnamed).first(self.ran.events, self._again.events)

    def against(self, other: Ran, look: Look | None = None, axes: Axes | None = None) -> Comparison:
        """Where the other run parts from this one, at the places to look at.

        look: everywhere by default. axes: how the axes of a site's value are called.
        """
        rounding = max(self.ran.rounding, other.rounding)
        judge = _Judge(rounding, look or everywhere, axes or unnamed)
        measured = tuple(self._outputs(other, judge))
        outputs = tuple(each for each in measured if each.counts)
        return Comparison(outputs, self.noise, lambda: self._sites(other, judge), measured)

    def _sites(self, other: Ran, judge: _Judge) -> Iterator[Difference | str]:
        """The sites that differ, and the names of those where the runs part."""
        for before, again, after in zip_longest(self.ran.events, self._again.events, other.events):
            if before is None or after is None or _key(before) != _key(after):
                yield (after or before).site
                return
            if before.value is None or after.value is None:
                continue
            if before.value.shape != after.value.shape:
                yield before.site
                continue
            same = again is not None and _key(again) == _key(before)
            found = judge.difference(before, again.value if same else None, after.value)
            if found is not None:
                yield found

    def _outputs(self, other: Ran, judge: _Judge) -> Iterator[Difference]:
        for name, value in self.ran.outputs.items():
            after = other.outputs.get(name)
            if after is not None and after.shape == value.shape:
                event = Event(name, name, Kind.OUTPUT, 0, value)
                found = judge.measured(event, self._again.outputs.get(name), after)
                if found is not None:
                    yield found


@dataclass(frozen=True, slots=True)
class _Judge:
    """Tells a difference from noise and rounding."""

    rounding: float
    look: Look
    axes: Axes

    def first(self, before: Iterable[Event], after: Iterable[Event]) -> Difference | None:
        """The first event that differs at all."""
        for one, two in zip(before, after, strict=False):
            found = None if two.value is None else self.difference(one, None, two.value)
            if found is not None:
                return found
        return None

    def difference(self, event: Event, again: Tensor | None, after: Tensor) -> Difference | None:
        """How much the value differs from the event's; None where it is noise or not looked at."""
        if event.value is None or torch.equal(event.value, after):
            return None
        found = self.measured(event, again, after)
        return found if found is not None and found.counts else None

    def measured(self, event: Event, again: Tensor | None, after: Tensor) -> Difference | None:
        """The same, be it noise; None where it is not looked at."""
        before = event.value
        look = None if before is None else self.look(event.site, before)
        if before is None or look is None:
            return None
        look = look.expand(before.shape)
        largest, place = gap(before, after, look)
        noise = 0.0 if again is None else gap(before, again, look)[0]
        size = scale(before, look)
        limit = max(NOISES * noise, self.rounding * size if before.is_floating_point() else 0.0)
        names = self.axes(event.site, tuple(before.shape))
        return Difference(
            event.site,
            event.module,
            event.kind,
            event.call,
            largest,
            largest / size if size else float("inf"),
            noise,
            limit,
            dict(zip(names, place, strict=True)),
        )


def compare(
    call: Callable[[Any], Any],
    given: Any,
    changed: Any,
    model: nn.Module,
    look: Look | None = None,
    axes: Axes | None = None,
) -> Comparison:
    """Where `call(changed)` parts from `call(given)`, against the noise of `call(given)` run twice.

    Nothing outside has changed afterwards: parameters, gradients, buffers, modes, generators.
    """
    baseline = Baseline(call, given, model)
    return baseline.against(baseline.run(changed), look, axes)


def everywhere(_: str, value: Tensor) -> Tensor:
    """All of the value is to be compared."""
    return torch.ones((), dtype=torch.bool, device=value.device)


def unnamed(_: str, shape: tuple[int, ...]) -> list[str]:
    """Axes by number: `axis 0`."""
    return [f"axis {i}" for i in range(len(shape))]


def scale(value: Tensor, look: Tensor | None = None) -> float:
    """The largest finite absolute value at the places to look at, but for a mask's fill value."""
    sizes = value.abs() if value.dtype is not torch.bool else value.float()
    hidden = ~torch.isfinite(sizes) if look is None else ~(torch.isfinite(sizes) & look)
    if value.is_floating_point() and value.numel():
        lowest = value.masked_fill(~torch.isfinite(value), 0).min()
        hidden = hidden | ((value == lowest) & (lowest <= FILL))
    return float(sizes.masked_fill(hidden, 0).max()) if value.numel() else 0.0


def _key(event: Event) -> tuple[str, Kind, int]:
    return event.site, event.kind, event.call


def gap(one: Tensor, two: Tensor, look: Tensor | None = None) -> tuple[float, tuple[int, ...]]:
    """The largest absolute difference and its place; infinite where only one is finite.

    look: true where to compare, of the tensors' shape. Equal infinities and two NaNs agree.
    """
    if one.shape != two.shape:
        return float("inf"), ()
    if one.numel() == 0:
        return 0.0, ()
    if torch.equal(one, two):
        return 0.0, (0,) * one.ndim
    wide = torch.complex128 if one.is_complex() else torch.float64
    a, b = one.to(wide), two.to(wide)
    same = (a == b) | ((a != a) & (b != b))
    apart = (a - b).abs().nan_to_num(nan=float("inf"), posinf=float("inf"))
    apart = apart.masked_fill(same if look is None else same | ~look, 0.0)
    flat = int(apart.argmax())
    place = torch.unravel_index(torch.tensor(flat, device="cpu"), apart.shape)
    return float(apart.flatten()[flat]), tuple(int(i) for i in place)
