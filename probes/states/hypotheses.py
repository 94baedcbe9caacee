"""Hypotheses of a search whose tokens are picked anew at each step, and whose states are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from probes.execution import glance
from probes.experiment import Experiment, copied
from probes.nested import tensors_in
from probes.operators.row_picks import PICKS, Picked, is_whole, picked
from probes.raised import source_here
from probes.replay import Snapshot
from probes.running import names_of, running

SEARCHES = {"topk", "sort", "argsort", "msort", "argmax", "argmin", "max", "min", "multinomial"}
IN_ORDER = {"topk", "sort", "msort"}  # what they give stands in the order that they found
READS = {"tolist", "item", "numpy", "__int__", "__index__", "__iter__", "unbind", "__array__"}
HOTS = {"one_hot", "scatter", "scatter_"}
PRODUCTS = {"matmul", "__matmul__", "mm", "bmm", "einsum"}
MATTERS = 1e-3  # of a state's size: rows that are nearer are one and the same


@dataclass(frozen=True, slots=True)
class Carried:
    """A state that was taken over as it stood. site: the module that it is given to; None around.

    event: of the pick that passed it by. apart: how far its rows are from those that were picked.
    """

    event: int
    site: str | None
    shape: tuple[int, ...]
    apart: float


@dataclass(frozen=True, slots=True)
class _Tag:
    """Made of what searches chose: of the newest of them its number.

    event: the last pick of rows that whole numbers went through. carried: a state that it is made
    of beside newer tokens. hot: whether it is one-hot rows of what was chosen. picked: rows that
    are more or fewer than there were, until as many are picked of them.
    """

    new: int
    event: int = -1
    carried: Carried | None = None
    hot: bool = False
    picked: Picked | None = None


@dataclass(slots=True)
class Unpicked:
    """source: where the tokens are picked. moved: how many of the rows come from another one."""

    source: str | None
    moved: int
    rows: int
    carried: list[Carried] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Event:
    """Rows of whole numbers were picked by what the search of that number chose."""

    search: int
    picked: Picked
    source: str | None


class _Hypotheses(TorchFunctionMode):
    """While it is entered, follows what searches choose into tokens, states and the next search.

    A pick passes a state by where that was made before its search, meets what was made after it,
    and comes with it to the search by which the rows just picked are picked again.
    """

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.found: Unpicked | None = None
        self.broken: Exception | None = None
        self._names, self._search, self._read = names, 0, -1
        self._tags = WeakTensorKeyDictionary()
        self._parts = WeakTensorKeyDictionary()  # what was written into views of it
        self._sources = WeakTensorKeyDictionary()  # of picks, and the search that picked
        self._event, self._events = -1, dict[int, _Event]()
        self._seen: list[Carried] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result, which is its own."""
        given, name = kwargs or {}, getattr(func, "__name__", "")
        out = func(*args, **given)
        try:
            if self.found is None:
                self._look(name, args, given, out)
        except Exception as error:
            self.broken = error
            raise
        return out

    def _look(self, name: str, args: Any, given: Any, out: Any) -> None:
        if any(is_functorch_wrapped_tensor(each) for each in tensors_in((args, given, out))):
            return  # it has no numbers of its own
        if name in READS:
            whole = [each for each in tensors_in(args) if is_whole(each)]
            self._read = max([self._read, *(each.new for each in self._of(whole))])
        if name == "__setitem__":
            self._write(args[0], args[2], args[0][args[1]])
        elif name.endswith("_") and not name.endswith("__") and args:
            self._write(args[0], (args[1:], given), args[0])
        elif name in SEARCHES and any(e.is_floating_point() for e in tensors_in((args, given))):
            self._searched(name, self._joined(name, (args, given)), out)
        else:
            tag = self._pick(name, args, given) if name in PICKS else None
            self._know(out, self._written(out) or tag or self._joined(name, (args, given)))

    def _of(self, value: Any) -> list[_Tag]:
        tags = (self._tags.get(each) for each in tensors_in(value))
        return [each for each in tags if each is not None]

    def _know(self, out: Any, tag: _Tag | None) -> None:
        if tag is None:
            return
        for each in tensors_in(out):
            if each.dtype is not torch.bool and each.layout is torch.strided:
                self._tags[each] = tag if is_whole(each) else replace(tag, event=-1, picked=None)

    def _joined(self, name: str, value: Any) -> _Tag | None:
        """Of what is made of all of these together."""
        tags = self._of(value)
        if not tags:
            return None
        new = max(each.new for each in tags)
        hot = name in HOTS or (len(tags) == 1 and tags[0].hot)
        carried = next((each.carried for each in tags if each.carried is not None), None)
        picks = name in PRODUCTS and any(each.hot for each in tags)
        if not picks and self._event in self._events:
            carried = self._passed_by(value, new) or carried
        rows = next((each.picked for each in tags if each.picked is not None), None)
        return _Tag(new, max(each.event for each in tags), carried, hot, rows)

    def _passed_by(self, value: Any, new: int) -> Carried | None:
        """A state older than the last pick of rows, where it meets what is newer."""
        event = self._events[self._event]
        found = None
        for each in tensors_in(value) if new >= event.search else ():
            tag = self._tags.get(each)
            if tag is None or tag.new >= event.search or not each.is_floating_point():
                continue
            if each.numel() <= len(event.picked.rows):
                continue  # one number a row is a score, such as those of what is finished
            apart = event.picked.apart(each)
            if apart > MATTERS:
                site = running(self._names)
                found = Carried(self._event, site, tuple(each.shape), apart)
                self._seen.append(found)
        return found

    def _searched(self, name: str, tag: _Tag | None, out: Any) -> None:
        self._search += 1
        fresh = _Tag(self._search, carried=None if tag is None else tag.carried)
        for each in tensors_in(out):
            ordered = name in IN_ORDER and tag is not None
            self._know(each, fresh if is_whole(each) or ordered else tag)

    def _pick(self, name: str, args: Any, given: Any) -> _Tag | None:
        """Of what is picked by what a search chose, or by what may have been made of that."""
        source = args[0] if args else given.get("input")
        if not isinstance(source, Tensor):
            return None
        told = [each for each in tensors_in((args[1:], given)) if each is not source]
        chosen = [tag for each in told if is_whole(each) for tag in self._of(each)]
        tag: _Tag | None = self._tags.get(source)
        if not chosen:
            event = self._events.get(self._event)
            if tag is None or event is None or self._read < event.search:
                return None
            return replace(tag, new=self._read)
        new = max(each.new for each in chosen)
        kept = source if source._base is None else source._base
        self._sources[source] = self._sources[kept] = new
        carried = next((each.carried for each in chosen if each.carried is not None), None)
        tag = tag or _Tag(new)
        rows = is_whole(source) and source.ndim > 1
        found = picked(name, source, args, given) if rows else None
        after = _Tag(new, tag.event, carried or tag.carried)
        if found is None:
            return after
        if carried is not None and carried.event == tag.event == self._event:
            self._tell(tag.event, found.count)
        found = found.after(tag.picked)
        if not found.is_whole:
            return replace(after, picked=found)
        return replace(after, event=self._number(found, new)) if found.moved else after

    def _number(self, found: Picked, new: int) -> int:
        """The number of a pick of rows; one that picks as the last did is no other."""
        last = self._events.get(self._event)
        same = last is not None and torch.equal(last.picked.rows, found.rows)
        if last is None or not same or last.search != new:
            self._event += 1
            self._events = {self._event: _Event(new, found, source_here())}
            self._seen = []
        return self._event

    def _tell(self, number: int, count: int) -> None:
        event = self._events[number]
        moved, rows = event.picked.moved, len(event.picked.rows)
        if count != rows:
            return  # they are picked among others, such as those that are finished
        self.found = Unpicked(event.source, moved, rows, self._seen)

    def _write(self, into: Any, value: Any, part: Any) -> None:
        """The whole tensor is as new as its oldest part, or as the pick from it that comes back.

        part: what was written, which is known by itself where it is a view.
        """
        if not isinstance(into, Tensor) or not isinstance(part, Tensor):
            return
        base = into if into._base is None else into._base
        told, old = self._of(value), self._tags.get(base)
        if not told:
            return
        since = max(self._sources.get(into, -1), self._sources.get(base, -1))
        last = self._events[self._event].search if self._event in self._events else 0
        if since >= last:
            tag = self._joined("", value) or told[0]
            number = tag.event if old is None else max(old.event, tag.event)
            tag = replace(tag, new=max(since, tag.new), event=number)
            self._parts.pop(base, None)
        else:
            tag = self._joined("", (base, value)) or told[0]
            tag = replace(tag, new=tag.new if old is None else min(old.new, tag.new))
        self._know((base, into), tag)
        if part._base is not None:  # a view, and no copy
            own = max(told, key=lambda each: each.new)
            self._parts.setdefault(base, {})[_place(part)] = own
            self._know(part, own)

    def _written(self, out: Any) -> _Tag | None:
        """Of a view, what was last written there."""
        base = out._base if isinstance(out, Tensor) else None
        parts: dict[object, _Tag] | None = None if base is None else self._parts.get(base)
        return None if parts is None else parts.get(_place(out))


def _place(view: Tensor) -> tuple[object, ...]:
    return view.data_ptr(), view.shape, view.stride()


def unpicked(experiment: Experiment) -> Unpicked | None:
    """The first state that a pick of tokens passes by, in a call of `predict` or of a metric."""
    subject, model = experiment.subject, experiment.subject.model
    for call in _calls(experiment):
        mode = _Hypotheses(names_of(model))

        def once(call: Callable[[], object] = call) -> dict[str, Tensor]:
            with torch.no_grad():
                model.eval()
                call()
            return {}

        with suppress(Exception):  # what it did before it raised is known
            glance(once, subject.model, Snapshot.take(model), under=[mode])
        if mode.broken is not None:
            raise mode.broken
        if mode.found is not None:
            return mode.found
    return None


def _calls(experiment: Experiment) -> Iterator[Callable[[], object]]:
    subject = experiment.subject
    known = [*subject.metrics.values()]
    for call in known if subject.predict is None else [subject.predict, *known]:
        yield lambda call=call: call(subject.model, copied(experiment.batch))  # type: ignore[misc]
