"""One forward pass with its graph: what modules were shown, and what was picked by index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor

from probes.batch import leaves
from probes.bus import Bus, Kind, See
from probes.experiment import Experiment, attempted, copied
from probes.finding import ExperimentError
from probes.modules import every_module
from probes.place import Place, came_about
from probes.reading.indexing import Indexing, Laid, Pick, Pooled, Reshaped, Summed
from probes.replay import Snapshot, replay
from probes.scoring.alignments import Aligned
from probes.scoring.calls import Call
from probes.subject import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A tensor that a module took or gave, with its graph.

    order: how many tensors and operators were seen before it.
    """

    site: str
    module: str
    kind: Kind
    order: int
    tensor: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Alive:
    """A pass through the loss in evaluation mode, whose graph can be asked again and again.

    shown: floating tensors that have a gradient, in forward order. picks, views: what the
    subject's code took by index, and how it changed shapes. classed, aligned: what losses of
    classes and of CTC were handed. tiled: how many rows were repeated, one copy after the other, to
    how many. root: how the model itself is called. looked_up: what was had of tables by
    `embedding`. summed: whole numbers that were summed up along an axis. pooled: what products,
    sums and differences gave, whether a module was shown it or not. parted: what was cut
    into parts, the first of each. laid: what was laid behind each other along the second axis.
    named: whole numbers that were picked, and places that were written to. rolled, sampled: how
    often numbers were rolled, and read by a grid. fed: what modules were given without a gradient,
    of the shape of a tensor of the batch, with the values that it had then.
    """

    loss: Tensor
    shown: tuple[Shown, ...]
    picks: tuple[Pick, ...]
    views: tuple[Reshaped, ...]
    classed: tuple[Call, ...]
    aligned: tuple[Aligned, ...]
    tiled: tuple[tuple[int, int], ...]
    root: str
    looked_up: tuple[Pick, ...] = ()
    summed: tuple[Summed, ...] = ()
    pooled: tuple[Pooled, ...] = ()
    parted: tuple[Reshaped, ...] = ()
    rolled: int = 0
    sampled: int = 0
    fed: tuple[Tensor, ...] = ()
    laid: tuple[Laid, ...] = ()
    named: tuple[Pick, ...] = ()

    @property
    def given(self) -> tuple[Shown, ...]:
        """What the model itself gave."""
        return tuple(
            each for each in self.shown if each.module == self.root and each.kind is Kind.OUTPUT
        )

    def of_loss(self, wanted: Sequence[Tensor]) -> list[Tensor | None]:
        """The loss's gradients; None where it does not depend on one."""
        if not self.loss.requires_grad or not wanted:
            return [None] * len(wanted)
        return gradients(self.loss, wanted)


def gradients(value: Tensor, wanted: Sequence[Tensor]) -> list[Tensor | None]:
    """Of a scalar; None where it does not depend on one. The graph stays."""
    with attempted("the backward pass of an experiment"), torch.enable_grad():
        found = torch.autograd.grad(value, wanted, retain_graph=True, allow_unused=True)
    return [None if each is None else each.detach() for each in found]


@dataclass(slots=True)
class _Keeps:
    """Keeps what is shown. wakes: a constant that a module gives gets a gradient of its own.

    shapes: those of the batch.
    """

    wakes: bool
    clock: Iterator[int]
    shapes: set[torch.Size]
    found: list[tuple[int, Tensor, int]] = field(default_factory=list)
    fed: list[Tensor] = field(default_factory=list)
    sees: Mapping[Kind, See] = field(init=False)

    def __post_init__(self) -> None:
        self.sees = {Kind.INPUT: self.see_input, Kind.OUTPUT: self.see_output}

    def see(self, number: int, tensor: Tensor) -> None:
        if tensor.is_floating_point() and tensor.requires_grad:
            self.found.append((number, tensor, next(self.clock)))

    def see_input(self, number: int, tensor: Tensor) -> None:
        plain = not tensor.requires_grad and tensor.layout is torch.strided
        fits = plain and tensor.shape in self.shapes
        if fits and not any(_is_equal(tensor, each) for each in self.fed):
            self.fed.append(tensor.clone())
        self.see(number, tensor)

    def see_output(self, number: int, tensor: Tensor) -> None:
        frozen = tensor.is_floating_point() and not tensor.requires_grad and tensor.is_leaf
        if self.wakes and frozen and not tensor.is_inference():
            tensor.requires_grad_(True)
        self.see(number, tensor)


def _is_equal(one: Tensor, two: Tensor) -> bool:
    alike = (one.shape, one.dtype, one.device) == (two.shape, two.dtype, two.device)
    return alike and torch.equal(one, two)


def alive(
    experiment: Experiment,
    batch: Batch | None = None,
    picks: bool = True,
    within: Sequence[AbstractContextManager[Any]] = (),
) -> Alive:
    """The loss of a batch, the experiment's own by default, with all that led to it.

    picks: whether to look at what is taken by index and what changes its shape. within: contexts
    in which the pass is made, for a batch that is given.
    What a frozen part of the model gives can be asked for gradients too, unless the subject's
    code does not bear that. Raises ExperimentError where the loss raises.
    """
    if batch is None:
        if "alive" not in experiment.memo:
            experiment.memo["alive"] = alive(experiment, experiment.batch)
        first: Alive = experiment.memo["alive"]
        return first
    try:
        return _pass(experiment, batch, True, picks, within)
    except ExperimentError:
        return _pass(experiment, batch, False, picks, within)


def _pass(
    experiment: Experiment,
    batch: Batch,
    wakes: bool,
    picks: bool,
    within: Sequence[AbstractContextManager[Any]],
) -> Alive:
    model, subject = experiment.subject.model, experiment.subject
    clock = count()
    shapes = {each.shape for each in leaves(batch).values() if isinstance(each, Tensor)}
    keeps, indexing = _Keeps(wakes, clock, shapes), Indexing(clock)
    losses: list[Tensor] = []

    def step() -> Tensor:
        with attempted("`Subject.loss`, in evaluation mode,"):
            losses.append(subject.loss(model.eval(), copied(batch)))
        return losses[0].detach()

    without = torch.backends.cudnn.flags(enabled=False)  # its RNNs do not go back in evaluation
    under: list[AbstractContextManager[Any]] = [without, indexing] if picks else [without]
    under += within
    with Bus(model, [keeps], whole=True) as bus:
        replay(step, model, Snapshot.take(model), under=under)
    modules = [name for name, _ in every_module(model)]
    shown = tuple(_shown(bus, keeps, set(modules)))
    seen = indexing
    return Alive(
        losses[0],
        shown,
        tuple(seen.picks),
        tuple(seen.views),
        tuple(seen.classed),
        tuple(seen.aligned),
        tuple(seen.tiled),
        modules[0],
        tuple(seen.looked_up),
        tuple(seen.summed),
        tuple(seen.pooled),
        tuple(seen.parted),
        seen.rolled,
        seen.sampled,
        tuple(keeps.fed),
        tuple(seen.laid),
        tuple(seen.named),
    )


def _shown(bus: Bus, keeps: _Keeps, modules: set[str]) -> Iterator[Shown]:
    for number, tensor, order in keeps.found:
        name, module = bus.sites[number].name, bus.sites[number].name
        while module not in modules:
            module = module[: max(module.rfind("."), module.rfind("["))]
        yield Shown(name, module, bus.sites[number].kind, order, tensor)


def place_at(experiment: Experiment, shown: Shown) -> Place:
    """In whose code the tensor came about."""
    return came_about(shown.kind, shown.module, experiment.subject.model)


def last_pick(picks: Iterable[Pick], before: Shown, after: int = -1) -> Pick | None:
    """The last time before a tensor was shown that anything with a gradient was indexed."""
    found = [p for p in picks if after < p.order < before.order and p.source.requires_grad]
    return found[-1] if found else None


def site_of(experiment: Experiment, seen: Alive, order: int) -> str:
    """The module whose code was at work then: what calls, or gives, what is shown next."""
    later = next((each for each in seen.shown if each.order > order), None)
    if later is None or (later.module == seen.root and later.kind is Kind.INPUT):
        return "<loss>"
    return came_about(later.kind, later.module, experiment.subject.model).site
