"""The calls of recurrent modules in one forward pass: what each started from and what it gave."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from probes.bus import Bus, Kind, See
from probes.modules import every_module
from probes.raised import source_here

NAMED = re.compile(r"(cell|rnn|lstm|gru)$", re.IGNORECASE)
PLACED = 3  # calls of a module whose source line is looked up


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor as it was then, and the live one, by which gradients are asked for."""

    value: Tensor
    live: Tensor


@dataclass(slots=True)
class Call:
    """One call of a recurrent module.

    forward: in which call of the whole model. order: how many calls of any such module came
    first. x: what it reads. before: the state that it was given, none where it starts from its
    own zeros. gave: all that it returned.
    """

    forward: int
    order: int
    source: str | None
    given: list[Held] = field(default_factory=list)
    gave: list[Held] = field(default_factory=list)

    @property
    def x(self) -> Tensor:
        """What it reads."""
        return self.given[0].value

    @property
    def before(self) -> list[Held]:
        """The parts of the state that it was given: h, or h and c."""
        return self.given[1:]

    def after(self, parts: int) -> list[Held]:
        """The parts of the state that it gave."""
        return self.gave[-parts:]


@dataclass(frozen=True)
class Recurrent:
    """A recurrent module and its calls in order.

    outputs: what each call of the whole model gave in training mode.
    """

    site: str
    module: nn.Module
    calls: Sequence[Call]
    outputs: Mapping[int, Sequence[Tensor]] = field(default_factory=dict)

    @property
    def parts(self) -> int:
        """How many tensors its state has; 0 where that is not known."""
        given = max((len(call.before) for call in self.calls), default=0)
        if isinstance(self.module, (nn.RNNBase, nn.RNNCellBase)):
            return 2 if isinstance(self.module, (nn.LSTM, nn.LSTMCell)) else 1
        fits = all(len(call.gave) >= given for call in self.calls)
        same = fits and all(
            one.value.shape == two.value.shape
            for call in self.calls
            for one, two in zip(call.before, call.after(given), strict=False)
        )
        return given if same else 0

    @property
    def is_step(self) -> bool:
        """Whether each call is one step: a cell, or a layer that is given sequences of one."""
        return not isinstance(self.module, nn.RNNBase) or all(
            self.length(call) == 1 for call in self.calls
        )

    def length(self, call: Call) -> int | None:
        """How many steps a layer's call has; None where it is packed."""
        if not isinstance(self.module, nn.RNNBase):
            return 1
        if call.x.ndim != 3:
            return None
        return call.x.shape[1 if self.module.batch_first else 0]

    def groups(self) -> list[list[Call]]:
        """The calls of each forward pass of the whole model."""
        found: dict[int, list[Call]] = {}
        for call in self.calls:
            found.setdefault(call.forward, []).append(call)
        return list(found.values())

    def part(self, number: int) -> str:
        """How a part of the state is called."""
        return "state" if self.parts < 2 else ("hidden state h", "cell state c")[number % 2]


class Calls:
    """Keeps the calls of recurrent modules while it is entered."""

    def __init__(self, model: nn.Module) -> None:
        self.sees: Mapping[Kind, See] = {Kind.INPUT: self._given, Kind.OUTPUT: self._gave}
        self._model = model
        modules = dict(every_module(model))
        self._modules = {n: m for n, m in modules.items() if is_recurrent(m)}
        self._root = next(iter(modules))
        self._owner: dict[str, str | None] = {}
        self._calls: dict[str, list[Call]] = {name: [] for name in self._modules}
        self._outputs: dict[int, list[Tensor]] = {}
        self._forward, self._order, self._inside = 0, 0, False
        self.bus = Bus(model, [self], whole=True)

    @property
    def found(self) -> list[Recurrent]:
        """The modules that were called, in the order of their first calls."""
        known = [
            Recurrent(n, self._modules[n], calls, self._outputs)
            for n, calls in self._calls.items()
            if calls
        ]
        return sorted(known, key=lambda each: each.calls[0].order)

    def _given(self, number: int, tensor: Tensor) -> None:
        name = self.bus.sites[number].name
        owner = self._owner_of(name)
        if self._is_root(name) and not self._inside:
            self._forward, self._inside = self._forward + 1, True
        if owner is None:
            return
        calls = self._calls[owner]
        if not calls or calls[-1].gave:
            source = source_here() if len(calls) < PLACED else None
            calls.append(Call(self._forward, self._order, source))
            self._order += 1
        calls[-1].given.append(Held(tensor.detach().clone(), tensor))

    def _gave(self, number: int, tensor: Tensor) -> None:
        name = self.bus.sites[number].name
        owner = self._owner_of(name)
        if self._is_root(name):
            self._inside = False
            if self._model.training:
                self._outputs.setdefault(self._forward, []).append(tensor.detach().clone())
        if owner is not None and self._calls[owner]:
            self._calls[owner][-1].gave.append(Held(tensor.detach().clone(), tensor))

    def _owner_of(self, site: str) -> str | None:
        """The recurrent module whose part the site is."""
        if site not in self._owner:
            fits = [n for n in self._modules if site == n or site.startswith((f"{n}[", f"{n}."))]
            name = max(fits, key=len, default=None)
            self._owner[site] = name if name is not None and self._is_part(site, name) else None
        return self._owner[site]

    def _is_part(self, site: str, name: str) -> bool:
        """Whether it is no site of a child of the module."""
        children = {child for child, _ in self._modules[name].named_children()}
        return site[len(name) + 1 :].partition(".")[0].partition("[")[0] not in children

    def _is_root(self, site: str) -> bool:
        return site == self._root or site.startswith((f"{self._root}[", f"{self._root}."))


def is_recurrent(module: nn.Module) -> bool:
    """Whether it is one of torch's recurrent modules, or is called as one."""
    return isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or bool(
        NAMED.search(type(module).__name__)
    )


def equal(one: Tensor, two: Tensor) -> bool:
    """Whether both hold the same numbers, whatever axes of one entry they have."""
    if one.numel() != two.numel() or one.squeeze().shape != two.squeeze().shape:
        return False
    return bool((one.squeeze() == two.squeeze()).all())


def flows(start: Tensor, end: Tensor) -> bool:
    """Whether a gradient flows from the end back to the start, or that cannot be told."""
    if end is start:
        return start.requires_grad
    if not end.requires_grad or not start.requires_grad:
        return False
    try:
        (grad,) = torch.autograd.grad(end.sum(), start, retain_graph=True, allow_unused=True)
    except RuntimeError:  # such as of a tensor that was written in place since
        return True
    return grad is not None and bool((grad != 0).any())
