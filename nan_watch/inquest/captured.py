"""The model's calls of a step, kept so that its part of the step can be run again.

A loop that is not ours hands no step over. What is known of it is what the model was given and
what gradient its output got; what is computed from the output lies outside.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from nan_watch.inquest.from_line import Line
from nan_watch.inquest.marks import Marks
from probes.batch import map_leaves
from probes.replay import RandomState, Snapshot, Snapshots
from probes.whole import Piece
from probes.wrapped import needs_others

KEPT = 64  # calls of a step; where there are more, the oldest are forgotten
BUDGET = 256 * 2**20  # bytes that all but the newest call may hold on to
LEARNING = 3  # calls in which it is learned whether the model draws from python or numpy
AUTOCAST = ("cpu", "cuda")


@dataclass(slots=True)
class Call:
    """One call of the model.

    args, kwargs: what it was given, by reference, its containers copied. given: every tensor in
    them by path, with its version. snapshot: what it started from. autocast: device types with
    the dtype in force. grads: the gradients that each tensor of the output got, by its place.
    of: the part of the model that was called by itself; None where it is the model. line: of the
    user's, that made the call.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    snapshot: Snapshot
    given: list[tuple[str, Tensor, int]] = field(default_factory=list)
    autocast: tuple[tuple[str, torch.dtype], ...] = ()
    grads: dict[int, list[Tensor]] = field(default_factory=dict)
    of: nn.Module | None = None
    line: Line = field(default_factory=Line)

    @property
    def size(self) -> int:
        """The bytes of what was given and of the gradients, which would be free without us."""
        given = [tensor for _, tensor, _ in self.given]
        grads = [grad for each in self.grads.values() for grad in each]
        return sum(each.numel() * each.element_size() for each in [*given, *grads])

    @property
    def changed(self) -> str | None:
        """The path of the first tensor that was changed in place since; None where none was."""
        found = (path for path, tensor, version in self.given if _version(tensor) != version)
        return next(found, None)

    def forget(self) -> None:
        """Nothing is held any more, though a living graph may hold the call."""
        self.args, self.kwargs = (), {}
        self.given, self.grads = [], {}

    def again(self, model: nn.Module) -> Any:
        """The model's output, from the same inputs, which lead to no graph of before."""
        with ExitStack() as stack:
            for each in self._autocasting():
                stack.enter_context(each)
            args, kwargs = map_leaves((self.args, dict(self.kwargs)), _cut_off)
            called = model if self.of is None else self.of
            return self.line.call(partial(called, *args, **kwargs))

    def _autocasting(self) -> Iterator[AbstractContextManager[Any]]:
        for device, dtype in self.autocast:
            yield torch.autocast(device, dtype=dtype)

    def kept_grads(self) -> dict[int, Tensor]:
        """The gradient of each tensor of the output that got one, by its place."""
        return {place: sum(grads[1:], grads[0]) for place, grads in self.grads.items()}


class Captured:
    """Keeps the calls since the optimizer's last step; reads nothing back from the device.

    `on` is set to false where whole steps are handed over, and nothing need be kept. `dropped`
    is how many calls of the step were forgotten, being too many or too large. `loss` is the
    newest loss's autograd node, where it is known; `ends` are the numbers of the outputs' nodes.
    `raised` is the call that gave no output. `scale` is the loss's, where a scaler skips the step.
    `needs_others` is whether a call speaks to other processes, `whole` a model's own parameters,
    where they were gathered so that it need not. `marks` tell where the loop stood.
    """

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[Call] = []
        self.on = True
        self.dropped = 0
        self.loss: Any = None
        self.ends: set[int] = set()
        self.raised: Call | None = None
        self.scale = 1.0
        self.model = model
        self.needs_others = needs_others(model)
        self.whole: list[Piece] = []
        self.marks = Marks(model)
        self._snapshots = Snapshots(model)
        self._open: list[Call | None] = []  # the calls at work, the innermost last
        self._left = LEARNING
        self._host = False

    def before(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        listening: bool,
        of: nn.Module | None = None,
    ) -> None:
        """The outermost call is noted, where it is part of a step; of: the part that is called."""
        wanted = self.on and listening and not self._open and not torch.compiler.is_compiling()
        self._open.append(self._noted(args, kwargs, of) if wanted else None)

    def after(self, output: Any) -> None:
        """The call is kept, and the gradients that its output gets will be."""
        call = self._open.pop() if self._open else None
        if call is None:
            return
        if output is None:
            self.raised = call
            return
        self._learn(call)
        for place, tensor in enumerate(tensors_of(output)):
            if tensor.requires_grad and not tensor.is_leaf:
                tensor.register_hook(partial(_keep, call, place))
                self.ends.add(tensor.grad_fn._sequence_nr())  # type: ignore[union-attr]
        while self.calls and (
            len(self.calls) >= KEPT or sum(each.size for each in self.calls) > BUDGET
        ):
            self.calls.pop(0).forget()
            self.dropped += 1
        self.calls.append(call)

    @property
    def is_tied(self) -> bool:
        """Whether no call can be made again by this process alone."""
        return self.needs_others and not self.whole

    @property
    def known(self) -> list[Call]:
        """The calls that are kept, and the one that raised, if one did."""
        return self.calls if self.raised is None else [*self.calls, self.raised]

    @property
    def answered(self) -> int:
        """How many calls the step has made, where a gradient came back to one that is kept."""
        return len(self.calls) + self.dropped if any(each.grads for each in self.calls) else 0

    def forget(self) -> None:
        """The step is over: nothing of it is held any more."""
        for call in self.calls:
            call.forget()
        self.calls, self.dropped, self.raised = [], 0, None
        self.loss, self.ends, self.scale = None, set(), 1.0
        self.whole = []
        self.marks.forget()

    def _noted(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], of: nn.Module | None
    ) -> Call:
        given: list[tuple[str, Tensor, int]] = []

        def note(path: str, leaf: Any) -> Any:
            tensor = leaf.data if isinstance(leaf, PackedSequence) else leaf
            if isinstance(tensor, Tensor):
                given.append((path, tensor, _version(tensor)))
            return leaf

        args, kwargs = map_leaves((args, dict(kwargs)), note)
        line = Line.of(sys._getframe(2))
        random = RandomState.take(host=self._host or self._left > 0)
        self.marks.start = self._snapshots.take(random)
        return Call(args, kwargs, self.marks.start, given, _autocast(), of=of, line=line)

    def _learn(self, call: Call) -> None:
        """Python's and numpy's generators are looked at only where the model draws from them."""
        if self._left > 0:
            self._left -= 1
            self._host = self._host or not call.snapshot.random.same_host(RandomState.take())


@dataclass(frozen=True, slots=True)
class OfPart:
    """Hands on the calls of a part of the model, which is called by itself."""

    captured: Captured
    part: nn.Module

    def before(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], listening: bool) -> None:
        """It is about to be called."""
        self.captured.before(args, kwargs, listening, self.part)

    def after(self, output: Any) -> None:
        """It returned the output; None where it raised."""
        self.captured.after(output)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor of an output, in the order of its parts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    else:
        for part in _parts(value):
            yield from tensors_of(part)


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, each.name) for each in fields(value)]
    return ()


def _keep(call: Call, place: int, grad: Tensor | None) -> None:
    if grad is not None:  # as of an output of compiled code that the loss does not use
        call.grads.setdefault(place, []).append(grad.detach())


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _autocast() -> tuple[tuple[str, torch.dtype], ...]:
    on = (device for device in AUTOCAST if torch.is_autocast_enabled(device))
    return tuple((device, torch.get_autocast_dtype(device)) for device in on)


def _cut_off(_: str, leaf: Any) -> Any:
    """An input of the same numbers; one with a history becomes the start of its own."""
    if isinstance(leaf, PackedSequence) and leaf.data.requires_grad:
        return leaf._replace(data=_cut_off("", leaf.data))
    if isinstance(leaf, Tensor) and leaf.requires_grad and not isinstance(leaf, nn.Parameter):
        return leaf.detach().requires_grad_()
    return leaf
