"""The origin of what is not finite in a step: found by replay, walked back to its birth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.origin.closeup import Closeup, Lens
from nan_watch.origin.coordinates import Axes, plain_names
from nan_watch.origin.events import EMPTY, Event
from nan_watch.origin.held import Held
from nan_watch.origin.kernels import kernels
from nan_watch.origin.ledger import Ledger
from nan_watch.origin.recurrent import Growth
from nan_watch.origin.walk import culprit, path
from probes.batch import leaves
from probes.finding import Phase
from probes.layout import Layout
from probes.replay import Replayed, Snapshot, replay
from probes.subject import Batch

FUSED = (
    *("aten.mkldnn_rnn_layer", "aten._cudnn_rnn", "aten.miopen_rnn", "aten._thnn_fused_"),
    *("aten._scaled_dot_product_", "aten._efficient_attention_", "aten._flash_attention_"),
    *("aten._transformer_encoder_layer", "aten._native_multi_head_attention"),
)
ADDS = "AccumulateGrad"
NEAR = 24  # operators before an exception that may have led to it
SHOWN = 12
NAMED = 4

Under = Callable[[], Sequence[AbstractContextManager[Any]]]
"""Makes the context managers that a step is run in."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where what is not finite was born, from the replay of a step.

    op, node, phase, site, source: as a `Finding` has them; the operator that first read it where
        it was there before the step. library: the line of the library that the source calls.
    given: None, or what held it before the step: `parameter`, `buffer`, `batch` or `constant`,
        or `uninitialised` memory; `name` is its name or path.
    held, count, total: what the birth wrote that is not finite, out of `total` elements.
    shapes, largest_finite_input: of what it read.
    where: coordinates of the first bad element by axis name. samples: those that hold bad ones;
        None where no axis is known to be the samples'.
    token_id, token: the id that reads a poisoned row, and what the layout calls it.
    symptoms: `<loss>`, or the parameters whose gradient, or who themselves, are not finite.
    path: from the birth to the symptom. hidden: what it came from in the forward pass, where
        that did no harm there.
    repeats: whether the step gave the same again with the same kernels.
    kernels: with which kernels it was named: the step's own, or unfused ones.
    growth: where it was born in a recurrence, its state's sizes over time.
    closeup: the operator with what it read, from another replay; None of what was there before
        the step, or where that replay did not come by it.
    events: the whole ledger. begin: the number of the first autograd node of the replay.
    within: what was replayed, in words, where it is no pass.
    """

    op: str | None
    node: str | None
    phase: Phase
    site: str
    source: str | None
    library: str | None
    given: str | None
    name: str | None
    held: Held
    shapes: tuple[tuple[int, ...], ...]
    largest_finite_input: float | None
    where: Mapping[str, int | str]
    samples: tuple[int, ...] | None
    token_id: int | None
    token: str | None
    symptoms: tuple[str, ...]
    path: tuple[Event, ...]
    hidden: Event | None
    repeats: Literal["to the bit", "in kind", "no"]
    kernels: Literal["the same", "unfused"]
    growth: Growth | None
    closeup: Closeup | None = field(repr=False)
    culprit: Event = field(repr=False)
    events: tuple[Event, ...] = field(repr=False)
    begin: int = field(repr=False)
    within: str | None = None

    @property
    def count(self) -> int:
        """How many elements of what the birth wrote are not finite."""
        return self.held.count

    @property
    def total(self) -> int:
        """How many elements it wrote."""
        return self.held.total

    @property
    def hands_on(self) -> bool:
        """Whether it read what it wrote: an infinity that was meant, as a mask's -inf is."""
        held = self.culprit.held
        return held is not None and not held.nan and any(r.held.inf for r in self.culprit.reads)

    @property
    def is_of_gradients(self) -> bool:
        """Whether code outside of every pass wrote it into gradients: no backward pass did.

        One that adds to such a gradient afterwards, as of a later micro-batch, did not.
        """
        born = self.culprit.given is None and not any(n.startswith("<") for n in self.symptoms)
        return born and self.phase == "forward" and not any(map(_is_of_pass, self.path))

    def story(self) -> tuple[str, ...]:
        """A line for the birth, for what it fed, and for each symptom; the middle may be cut."""
        chain = list(self.path)
        cut = len(chain) - SHOWN
        lines = [_line(event) for event in chain]
        if cut > 0:
            lines[SHOWN // 2 : SHOWN // 2 + cut] = [f"... {cut} more ..."]
        before = [f"hidden before: {_line(self.hidden)}"] if self.hidden else []
        more = len(self.symptoms) - NAMED
        named = ", ".join(self.symptoms[:NAMED]) + (f" and {more} more" if more > 0 else "")
        return (*before, *lines, f"not finite: {named}")


def _is_of_pass(event: Event) -> bool:
    return event.phase != "forward" and event.node != ADDS


def _line(event: Event) -> str:
    what = event.op or f"{event.given} {event.name or ''}".strip()
    at = event.place.at
    within = f" in {event.node}" if event.node else ""
    return f"{event.phase}: {what}{within} in {event.place.site}{at}: {event.held or 'finite'}"


@dataclass(frozen=True, slots=True)
class _Traced:
    """A replay under a ledger, and what was found by walking back from its symptoms."""

    ledger: Ledger
    symptoms: tuple[str, ...]
    roots: tuple[int, ...]
    birth: Event
    hidden: Event | None


def find_origin(
    model: nn.Module,
    step: Callable[[], Tensor],
    snapshot: Snapshot,
    *,
    layout: Layout | None = None,
    batch: Batch = None,
    optimizers: Sequence[Optimizer] = (),
    raises: bool = False,
    under: Under = tuple,
) -> Origin | None:
    """The origin of the step's symptom, or None where the replayed step is finite.

    step: the loss and its backward pass; it returns the loss. snapshot: what it started from.
    batch: what the step reads, so that its keys, samples and tokens have names.
    optimizers: held back where the step calls them itself. raises: whether the symptom is that
    the step raises; then what it met last is walked back from. under: makes what it is run in.

    The step runs two times with its own kernels; a third time without fused ones where the birth
    lies inside one; and once more to look at the birth from near. Nothing outside is changed.
    """
    step = until_it_raises(step) if raises else step
    bare = replay(step, model, snapshot, under=under(), optimizers=optimizers)
    run = _Run(model, step, snapshot, batch, optimizers, raises, under)
    replayed, traced = run.traced(unfused=False)
    if traced is None:
        return None
    repeats = _repeats(bare, replayed)
    named_with: Literal["the same", "unfused"] = "the same"
    if (traced.birth.op or "").startswith(FUSED):
        _, named = run.traced(unfused=True)
        if named is not None:  # else the step is finite without the fused kernel: blame that
            traced, named_with = named, "unfused"
    axes = Axes.of(batch, layout, [tuple(p.shape) for p in model.parameters()])
    closeup = run.closeup(traced, unfused=named_with == "unfused")
    return _origin(traced, axes, repeats, named_with, closeup, layout, batch)


@dataclass(frozen=True, slots=True)
class _Run:
    model: nn.Module
    step: Callable[[], Tensor]
    snapshot: Snapshot
    batch: Batch
    optimizers: Sequence[Optimizer]
    raises: bool
    under: Under

    def traced(self, unfused: bool) -> tuple[Replayed, _Traced | None]:
        """The step has run under a ledger, which was walked back from its symptoms."""
        ledgers: list[Ledger] = []
        watching = _watching(ledgers, self.model, self.batch, unfused)
        replayed = replay(
            self.step,
            self.model,
            self.snapshot,
            under=[kernels(unfused=unfused), watching, *self.under()],
            optimizers=self.optimizers,
        )
        found = _trace(ledgers[0], replayed)
        if found is None and self.raises:
            found = _trace_raise(ledgers[0])
        return replayed, found

    def closeup(self, traced: _Traced, unfused: bool) -> Closeup | None:
        """The step has run under a lens that is held over the birth."""
        if traced.birth.given not in (None, EMPTY):
            return None
        lenses: list[Lens] = []
        seen = (self.model, traced.birth, traced.ledger.begin, unfused)
        replay(
            self.step,
            self.model,
            self.snapshot,
            under=[kernels(unfused=unfused), _looking(lenses, *seen), *self.under()],
            optimizers=self.optimizers,
        )
        return lenses[0].closeup


def until_it_raises(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The step, whose exception ends it as if it had come to a loss of zero."""

    def run() -> Tensor:
        try:
            return step()
        except Exception:
            return torch.zeros(())

    return run


@contextmanager
def _watching(into: list[Ledger], model: nn.Module, batch: Batch, unfused: bool) -> Iterator[None]:
    """A ledger runs; it is made only now, when the step's snapshot has been restored."""
    into.append(Ledger(model, batch, unfused))
    with into[0]:
        yield


@contextmanager
def _looking(
    into: list[Lens], model: nn.Module, birth: Event, begin: int, unfused: bool
) -> Iterator[None]:
    """A lens is over the birth; it is made only now, as the ledger was."""
    into.append(Lens(model, birth, begin, unfused))
    with into[0]:
        yield


def _trace(ledger: Ledger, replayed: Replayed) -> _Traced | None:
    """The culprit of the loss where it is not finite; else of gradients, buffers, a parameter."""
    found, buffers = replayed.symptoms(), list(replayed.buffers)
    loss = [name for name in found if name == "<loss>"]
    grads = [name for name in found if name != "<loss>" and name not in replayed.buffers]
    for names in (loss, grads, buffers):
        roots = tuple(root for name in names for root in ledger.writers(found[name]))
        blamed = culprit(ledger.events, roots)
        if blamed is not None:
            return _Traced(ledger, (*loss, *grads, *buffers), roots, *blamed)
    poisoned = [event for event in ledger.events if event.given == "parameter"]
    if not poisoned:
        return None
    roots = tuple(event.index for event in poisoned)
    return _Traced(ledger, tuple(event.name or "" for event in poisoned), roots, poisoned[0], None)


def _trace_raise(ledger: Ledger) -> _Traced | None:
    """The culprit of what the last operators met before the step raised."""
    last = [event for event in ledger.events if event.tick > ledger.ticks - NEAR]
    read = [w for event in last for each in event.reads for w in each.writers]
    roots = tuple(dict.fromkeys([*read, *(event.index for event in last if event.held)]))
    blamed = culprit(ledger.events, roots)
    if blamed is None or blamed[0].meant:
        return None
    return _Traced(ledger, ("an exception",), roots, *blamed)


def _repeats(bare: Replayed, watched: Replayed) -> Literal["to the bit", "in kind", "no"]:
    if bare.same_as(watched):
        return "to the bit"
    return "in kind" if bare.symptoms().keys() == watched.symptoms().keys() else "no"


def _origin(
    traced: _Traced,
    axes: Axes,
    repeats: Literal["to the bit", "in kind", "no"],
    named_with: Literal["the same", "unfused"],
    closeup: Closeup | None,
    layout: Layout | None,
    batch: Batch,
) -> Origin:
    birth, ledger = traced.birth, traced.ledger
    chain = path(ledger.events, birth, [ledger.events[root] for root in traced.roots])
    reader = next((event for event in chain if event.given is None), birth)
    first = reader if birth.given not in (None, EMPTY) else birth
    where, samples = _coordinates(birth, first, ledger, axes)
    token_id = first.row if first.op == "aten.embedding" else None
    rnn = first.place.rnn
    return Origin(
        op=first.op,
        node=first.node,
        phase="data" if birth.given == "batch" or first.op is None else first.phase,
        site=first.place.site if birth.given != "batch" else "<data>",
        source=first.place.source,
        library=first.place.library,
        given=birth.given,
        name=birth.name,
        held=birth.held or Held(0, 0, 0, 0),
        shapes=first.shapes,
        largest_finite_input=birth.largest_finite,
        where=where,
        samples=samples,
        token_id=token_id,
        token=_token(token_id, layout, batch),
        symptoms=traced.symptoms,
        path=tuple(chain),
        hidden=traced.hidden,
        repeats=repeats,
        kernels=named_with,
        growth=ledger.recurrences.growth(first.place.site, rnn) if rnn else None,
        closeup=closeup,
        culprit=birth,
        events=tuple(ledger.events),
        begin=ledger.begin,
    )


def _coordinates(
    birth: Event, first: Event, ledger: Ledger, axes: Axes
) -> tuple[dict[str, int | str], tuple[int, ...] | None]:
    """Of the birth's first bad element; of a table's row and where it is read, of both."""
    where: dict[str, int | str] = {}
    own: dict[str, int] = {}  # of a parameter: its rows are not those of what reads it
    samples: tuple[int, ...] | None = None
    for event in {birth.index: birth, first.index: first}.values():
        place, site = event.where, event.place.site
        if place is None:
            continue
        backward = event.phase == "backward"
        if event.given in ("parameter", "buffer"):
            own = dict(zip(plain_names(len(place.shape)), place.first[0], strict=False))
            continue
        site = event.name or site if event.given == "batch" else site
        where |= axes.coordinates(place, site, backward)
        samples = axes.samples(place, site, backward) or samples
        rnn = event.place.rnn
        if rnn is not None and place.first:
            inside = ledger.recurrences.coordinates(site, rnn, place.shape, place.first[0])
            where = {**inside} if not backward else {**where, **inside}
    if first.row is not None:
        where["row"] = first.row
    return where | own, samples


def _token(token_id: int | None, layout: Layout | None, batch: Batch) -> str | None:
    """What the layout calls the id, by the names of the first key that has some."""
    if token_id is None or layout is None:
        return None
    keys = [key for key in leaves(batch) if key in layout.names]
    for names in (layout.names[key] for key in keys):
        if callable(names):
            return names(token_id)
        if 0 <= token_id < len(names):
            return names[token_id]
    return None
