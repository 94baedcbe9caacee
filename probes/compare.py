"""Where two executions first part: the same call with one thing changed, at equal shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from probes.bus import Bus, Kind, See, every_module
from probes.replay import Snapshot, replay

BUDGET = 2**30  # bytes of values that a run keeps; sites beyond it are not compared
NOISES = 10.0  # a difference counts from so many times the noise on
ROUNDING = {
    torch.float64: 1e-9,
    torch.float32: 2e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}
"""What rounding alone may do, as a share of the largest value, by the coarsest dtype in a run."""

Look = Callable[[str, Tensor], Tensor | None]
"""Of a site or output and its value: true where to compare, None where that cannot be told."""

Axes = Callable[[str, tuple[int, ...]], Sequence[str]]
"""Of a site or output and its shape: how its axes are called."""


@dataclass(frozen=True, slots=True)
class Event:
    """A tensor that a run showed: what it was to its site, in which of the site's calls.

    site: with its part, such as `cell[0]`; module: without. value: None where the budget was spent.
    """

    site: str
    module: str
    kind: Kind
    call: int
    value: Tensor | None


@dataclass(frozen=True, slots=True)
class Ran:
    """What a call gave: outputs by name, and all that was shown on the way, in forward order."""

    outputs: Mapping[str, Tensor]
    events: tuple[Event, ...]

    @property
    def rounding(self) -> float:
        """What rounding may do in the coarsest number format that the run used."""
        values = [each.value for each in self.events] + list(self.outputs.values())
        return max((ROUNDING.get(v.dtype, 0.0) for v in values if v is not None), default=0.0)


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


@dataclass(frozen=True, slots=True)
class Comparison:
    """Where the changed run parts from the unchanged one.

    sites: the sites that differ, in forward order. outputs: the outputs that do.
    noise: the largest difference of two unchanged runs, over all outputs; 0 where they repeat.
    parted: the site from which the runs call other modules, or at other shapes; None if nowhere.
    """

    sites: tuple[Difference, ...]
    outputs: tuple[Difference, ...]
    noise: float
    parted: str | None

    @property
    def first(self) -> Difference | None:
        """The first site whose value differs; an output where no site does."""
        return next(iter((*self.sites, *self.outputs)), None)

    @property
    def deterministic(self) -> bool:
        """Whether two unchanged runs gave the same outputs to the bit."""
        return self.noise == 0


class _Copies:
    """Keeps a copy of every tensor that it is shown, up to a budget."""

    def __init__(self, budget: int) -> None:
        self.sees: Mapping[Kind, See] = {Kind.INPUT: self.see, Kind.OUTPUT: self.see}
        self.kept: list[tuple[int, Tensor | None]] = []
        self._left = budget
        self._last: tuple[Tensor, int, Tensor | None] | None = None  # one's output, other's input

    def see(self, number: int, tensor: Tensor) -> None:
        last = self._last
        if last is not None and last[0] is tensor and last[1] == tensor._version:
            self.kept.append((number, last[2]))
            return
        copy = self._copy(tensor.detach())
        self.kept.append((number, copy))
        self._last = None if tensor.is_inference() else (tensor, tensor._version, copy)

    def _copy(self, tensor: Tensor) -> Tensor | None:
        self._left -= tensor.numel() * tensor.element_size()
        if self._left < 0 or tensor.layout is not torch.strided or tensor.is_nested:
            return None
        return tensor.clone()


def run(
    call: Callable[[], Any],
    model: nn.Module,
    snapshot: Snapshot,
    *,
    under: Sequence[AbstractContextManager[Any]] = (),
    budget: int = BUDGET,
    own: bool = False,
) -> Ran:
    """The call has run from the snapshot and was looked at; nothing outside has changed.

    Outputs are the call's result: a tensor (`output`), or the tensors of a mapping, tuple or
    dataclass by name. The call need not go through the model's own forward; own: what the
    model's last forward pass gave counts among the outputs.
    """
    outputs: dict[str, Tensor] = {}
    copies = _Copies(budget)

    def step() -> Tensor:
        for name, tensor in named(call()):
            outputs[name] = tensor.detach().clone()
        return torch.zeros(())

    with Bus(model, [copies], whole=True) as bus:
        replay(step, model, snapshot, under=under)
    modules = {name for name, _ in every_module(model)}
    events = tuple(_events(bus, copies, modules))
    root = next(name for name, _ in every_module(model))
    return Ran({**(_own(events, root) if own else {}), **outputs}, events)


def _own(events: Sequence[Event], root: str) -> dict[str, Tensor]:
    """What the last call of the model itself gave."""
    whole = [each for each in events if each.module == root and each.kind is Kind.OUTPUT]
    calls = max((each.call for each in whole), default=0)
    return {
        each.site.removeprefix(root).replace("[", ".").replace("]", "").strip(".") or "output": (
            each.value
        )
        for each in whole
        if each.value is not None and each.call == calls
    }


def named(value: Any, name: str = "output") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a result by name: `output`, `logits`, `hidden.0`."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, PackedSequence):
        yield name, value.data
    else:
        for key, child in _children(value):
            yield from named(child, str(key) if name == "output" else f"{name}.{key}")


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return [(each.name, getattr(value, each.name)) for each in fields(value)]
    return []


def _events(bus: Bus, copies: _Copies, modules: set[str]) -> Iterator[Event]:
    calls: Counter[int] = Counter()
    for number, value in copies.kept:
        site = bus.sites[number]
        yield Event(site.name, _module(site.name, modules), site.kind, calls[number], value)
        calls[number] += 1


def _module(site: str, modules: set[str]) -> str:
    """The module whose part the site is."""
    while site not in modules:
        site = site[: max(site.rfind("."), site.rfind("["))]
    return site


class Baseline:
    """A call that has run twice unchanged; changed runs are compared with it.

    call: takes what is to be changed, such as a batch. The two runs, and every other, start from
    the state of the model and of the generators in which the baseline was made.
    """

    def __init__(
        self, call: Callable[[Any], Any], given: Any, model: nn.Module, own: bool = False
    ) -> None:
        self._own = own
        self._call = call
        self._model = model
        self._snapshot = Snapshot.take(model, parameters=True)
        self.ran = self.run(given)
        self._again = self.run(given)
        pairs = [(value, self._again.outputs.get(name)) for name, value in self.ran.outputs.items()]
        self.noise = max((gap(a, b)[0] for a, b in pairs if b is not None), default=0.0)

    def run(self, given: Any, before: Callable[[], None] | None = None) -> Ran:
        """The call has run with this, from the same state; `before` was called just before it."""

        def call() -> Any:
            if before is not None:
                before()
            return self._call(given)

        return run(call, self._model, self._snapshot, own=self._own)

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
        sites, parted = [], None
        for before, again, after in zip_longest(self.ran.events, self._again.events, other.events):
            if before is None or after is None or _key(before) != _key(after):
                parted = parted or (after or before).site
                break
            if before.value is None or after.value is None:
                continue
            if before.value.shape != after.value.shape:
                parted = parted or before.site
                continue
            same = again is not None and _key(again) == _key(before)
            found = judge.difference(before, again.value if same else None, after.value)
            if found is not None:
                sites.append(found)
        return Comparison(tuple(sites), tuple(self._outputs(other, judge)), self.noise, parted)

    def _outputs(self, other: Ran, judge: _Judge) -> Iterator[Difference]:
        for name, value in self.ran.outputs.items():
            after = other.outputs.get(name)
            if after is not None and after.shape == value.shape:
                event = Event(name, name, Kind.OUTPUT, 0, value)
                found = judge.difference(event, self._again.outputs.get(name), after)
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
        before = event.value
        if before is None or torch.equal(before, after):
            return None
        look = self.look(event.site, before)
        if look is None:
            return None
        look = look.expand(before.shape)
        largest, place = gap(before, after, look)
        noise = 0.0 if again is None else gap(before, again, look)[0]
        size = scale(before, look)
        limit = max(NOISES * noise, self.rounding * size if before.is_floating_point() else 0.0)
        if not largest > limit:
            return None
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
    """The largest finite absolute value at the places to look at."""
    sizes = value.abs() if value.dtype is not torch.bool else value.float()
    hidden = ~torch.isfinite(sizes) if look is None else ~(torch.isfinite(sizes) & look)
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
    place = torch.unravel_index(torch.tensor(flat), apart.shape)
    return float(apart.flatten()[flat]), tuple(int(i) for i in place)
