"""The only file that registers module and tensor hooks: shows live tensors to observers.

A hook only hands a tensor on. It returns nothing, so that nothing is replaced; it reads nothing
back to the host; and it inserts no autograd node, because gradients are seen by hooks on tensors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from itertools import islice
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.utils.rnn import PackedSequence

from probes.compiled_calls import CompiledCalls
from probes.modules import called_modules, every_module, watched_modules
from probes.traced import Traced
from probes.wrapped import called_instead


class Kind(StrEnum):
    """What a tensor is to its site."""

    INPUT = "input"
    OUTPUT = "output"
    OUTPUT_GRAD = "output_grad"
    PARAM_GRAD = "param_grad"


@dataclass(frozen=True, slots=True)
class Site:
    """A place whose tensors are shown: `decoder.cell[0]`, and what they are to it."""

    kind: Kind
    name: str


_OURS = "whynan"  # the key of our hook: those of torch's own handles are numbers

See = Callable[[int, Tensor], None]
"""Takes the number of a site and a live tensor, which it must neither keep nor change."""


class Observer(Protocol):
    """Wants to be shown tensors."""

    @property
    def sees(self) -> Mapping[Kind, See]:
        """What is called for each kind; no hook is registered for a kind that nobody wants."""


class Calls(Protocol):
    """Wants to know of every call of the model itself, with or without gradients."""

    def before(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], listening: bool) -> None:
        """The model is about to be called; listening: whether the bus shows this call."""

    def after(self, output: Any) -> None:
        """It returned the output; None where it raised."""


class Bus:
    """Shows an observer the outputs, output gradients and parameter gradients of a model.

    Outputs are those of every leaf module, of `nn.MultiheadAttention` and of the model itself, or
    of what it lists where it cannot be called; a tuple's, mapping's or dataclass's parts are sites
    of their own. A forward pass of the whole model without gradients is an evaluation and is not
    shown. `sites[number]` is the site of a number; `parts` of the same structure keep their numbers
    from step to step.

    whole: every module is shown, not the leaves alone, and evaluations are shown too. alone: of
    these the model itself only. entered: called before each call of the model, evaluations too, or
    of what it lists where it cannot be called.
    wrappers: what is around the model, the outermost first, one of which may be compiled. Where it
    is, its outputs are seen by operators in the compiled graph: `traced` holds them.
    `told_of` are modules with who wants to know of their calls: the model, with `calls`.
    """

    def __init__(
        self,
        model: nn.Module,
        observers: Sequence[Observer],
        calls: Calls | None = None,
        wrappers: Sequence[nn.Module] = (),
        *,
        whole: bool = False,
        alone: bool = False,
        entered: Callable[[], None] | None = None,
    ) -> None:
        self.model = model
        called = called_instead(wrappers)
        self.called = model if called is None else called  # `or` would ask a module for its length
        self.told_of = [] if calls is None else [(self.called, calls)]
        self.entered = entered
        self.whole = whole
        self.alone = alone
        self.sites: list[Site] = []
        self.listening = False
        self.hushed = False
        self._seers = {
            kind: _together([o.sees[kind] for o in observers if kind in o.sees]) for kind in Kind
        }
        self._hooks = ExitStack()
        self.traced = Traced(model, [name for name, _ in self._shown()])
        self._traced_numbers: dict[int, int] = {}

    def __enter__(self) -> Self:
        """Every hook is on, or, where one could not be registered, none."""
        with ExitStack() as hooks:
            hooks.enter_context(CompiledCalls(self))
            for module in called_modules(self.called) if self.entered is not None else ():
                hooks.callback(module.register_forward_pre_hook(_Entered(self)).remove)
            if self.seer(Kind.INPUT):
                self._hook_inputs(hooks)
            if self.seer(Kind.OUTPUT) or self.seer(Kind.OUTPUT_GRAD):
                self._hook_modules(hooks)
            if self.seer(Kind.PARAM_GRAD):
                self._hook_parameters(hooks)
            self._hooks = hooks.pop_all()
        self.listening = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Our hooks are off; those that hang on tensors of a living graph are silent."""
        self.listening = False
        self._hooks.close()

    def seer(self, kind: Kind) -> See | None:
        """What is called for tensors of this kind."""
        return self._seers[kind]

    def number(self, kind: Kind, name: str) -> int:
        """The number of a new site."""
        self.sites.append(Site(kind, name))
        return len(self.sites) - 1

    def traced_site(self, place: int) -> int:
        """The number of the site that is the output of the module at this place of `traced`."""
        if place not in self._traced_numbers:
            name = self.traced.names[place]
            self._traced_numbers[place] = self.number(Kind.OUTPUT, name)
        return self._traced_numbers[place]

    def _shown(self) -> Iterator[tuple[str, nn.Module]]:
        shown = every_module(self.model) if self.whole else watched_modules(self.model)
        return islice(shown, 1) if self.alone else shown

    def _hook_inputs(self, hooks: ExitStack) -> None:
        for name, module in self._shown():
            hook = _InputHook(self, module, name)
            hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _hook_modules(self, hooks: ExitStack) -> None:
        root = self.called
        if not self.whole:
            hooks.callback(root.register_forward_pre_hook(_Hush(self)).remove)
        for module, calls in self.told_of:  # before anybody's hook changes the arguments
            called = _Called(self, calls)
            hooks.callback(
                module.register_forward_pre_hook(called, prepend=True, with_kwargs=True).remove
            )
        for place, (name, module) in enumerate(self._shown()):
            hook = _OutputHook(self, module, name, place)
            hooks.callback(module.register_forward_hook(hook).remove)
        hooks.callback(root.register_forward_hook(_Wake(self), always_call=True).remove)
        for module, calls in self.told_of:
            returned = _Returned(self, calls)
            hooks.callback(module.register_forward_hook(returned, always_call=True).remove)

    def _hook_parameters(self, hooks: ExitStack) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                hook = _GradHook(self, name)
                hooks.callback(parameter.register_post_accumulate_grad_hook(hook).remove)


def _together(seers: list[See]) -> See | None:
    if len(seers) < 2:
        return seers[0] if seers else None

    def show_all(number: int, tensor: Tensor) -> None:
        for see in seers:
            see(number, tensor)

    return show_all


class _Hook:
    """Ours, and silent on any copy of the module: a copied or saved model is not watched."""

    __slots__ = ("bus",)

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    def __deepcopy__(self, memo: object) -> Callable[..., None]:
        return silent

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _silence, ()


def silent(*_: object) -> None:
    """What our hooks become in a copied or pickled module."""


def _silence() -> Callable[..., None]:
    return silent


class _Hush(_Hook):
    __slots__ = ()

    def __call__(self, module: nn.Module, args: object) -> None:
        if not is_compiling() and self.bus.listening and not torch.is_grad_enabled():
            self.bus.listening, self.bus.hushed = False, True


class _Wake(_Hook):
    __slots__ = ()

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        if (
            not is_compiling() and self.bus.hushed
        ):  # else it is somebody who does not want to listen, as in a replay
            self.bus.listening, self.bus.hushed = True, False


class _Entered(_Hook):
    __slots__ = ()

    def __call__(self, module: nn.Module, args: object) -> None:
        if is_compiling() or self.bus.entered is None:
            return
        if self.bus.listening or self.bus.hushed:  # else it is a replay
            self.bus.entered()


class _OfCalls(_Hook):
    __slots__ = ("calls",)

    def __init__(self, bus: Bus, calls: Calls) -> None:
        super().__init__(bus)
        self.calls = calls


class _Called(_OfCalls):
    __slots__ = ()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not is_compiling():
            listening = self.bus.listening and torch.is_grad_enabled()
            self.calls.before(args, kwargs, listening)


class _Returned(_OfCalls):
    __slots__ = ()

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        if not is_compiling():
            self.calls.after(output)


class _OutputHook(_Hook):
    __slots__ = ("module", "part", "place", "sees")

    def __init__(self, bus: Bus, module: nn.Module, name: str, place: int) -> None:
        super().__init__(bus)
        self.module = module
        self.place = place
        self.sees = bus.seer(Kind.OUTPUT) is not None
        self.part = _Part(bus, name)

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        if is_compiling():
            if self.sees:
                self.bus.traced.see(self.place, output)
        elif self.bus.listening and module is self.module:
            self.part.show(output)


class _InputHook(_Hook):
    __slots__ = ("module", "part")

    def __init__(self, bus: Bus, module: nn.Module, name: str) -> None:
        super().__init__(bus)
        self.module = module
        self.part = _Part(bus, name, Kind.INPUT)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not is_compiling() and self.bus.listening and module is self.module:
            self.part.show(args[0] if len(args) == 1 else args)
            self.part.show(kwargs)


class _GradHook(_Hook):
    __slots__ = ("number", "see")

    def __init__(self, bus: Bus, name: str) -> None:
        super().__init__(bus)
        self.number = bus.number(Kind.PARAM_GRAD, name)
        self.see = bus.seer(Kind.PARAM_GRAD)

    def __call__(self, parameter: Tensor) -> None:
        if self.bus.listening and self.see is not None and parameter.grad is not None:
            self.see(self.number, parameter.grad)


class _Part:
    """An output, or a part of one, with the parts below it as they turn up."""

    __slots__ = ("bus", "grad_number", "kind", "name", "number", "parts", "see", "see_grad")

    def __init__(self, bus: Bus, name: str, kind: Kind = Kind.OUTPUT) -> None:
        self.bus = bus
        self.name = name
        self.kind = kind
        self.parts: dict[object, _Part] = {}
        self.see = bus.seer(kind)
        self.see_grad = bus.seer(Kind.OUTPUT_GRAD) if kind is Kind.OUTPUT else None
        self.number = self.grad_number = -1

    def show(self, value: Any) -> None:
        """Every tensor in the value has been seen, and its gradient will be."""
        if isinstance(value, Tensor):
            if self.see is not None:
                if self.number < 0:
                    self.number = self.bus.number(self.kind, self.name)
                self.see(self.number, value)
            # a hook on a leaf would stay for good, and a leaf's gradient is a parameter's
            if self.see_grad is not None and value.requires_grad and not value.is_leaf:
                hook_gradient(value, self.show_grad)
        elif value is not None:
            self._show_parts(value)

    def show_grad(self, grad: Tensor | None) -> None:
        """The gradient has been seen, unless the bus is closed by now.

        None comes of an output that the loss does not use, where the function that gave it, as
        compiled code does, makes no zeros for it.
        """
        if self.bus.listening and self.see_grad is not None and grad is not None:
            if self.grad_number < 0:
                self.grad_number = self.bus.number(Kind.OUTPUT_GRAD, self.name)
            self.see_grad(self.grad_number, grad)

    def _show_parts(self, value: Any) -> None:
        if isinstance(value, PackedSequence):
            self.show(value.data)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self._at(key, ".").show(item)
        elif isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
            for index, item in enumerate(value):
                self._at(index, "[").show(item)
        else:
            for name in _field_names(value):
                self._at(name, ".").show(getattr(value, name))

    def _at(self, key: object, mark: str) -> _Part:
        part = self.parts.get(key)
        if part is None:
            name = f"{self.name}[{key}]" if mark == "[" else f"{self.name}.{key}"
            part = self.parts[key] = _Part(self.bus, name, self.kind)
        return part


def hook_gradient(tensor: Tensor, hook: Callable[[Tensor | None], None]) -> None:
    """The hook is called with the tensor's gradient, as by `tensor.register_hook(hook)`.

    Does what that does, at half its time, where the tensor has no hook yet: no handle is made.
    """
    if tensor._backward_hooks is None and type(tensor) is Tensor and not is_compiling():
        tensor._backward_hooks = OrderedDict([(_OURS, hook)])
        tensor.grad_fn._register_hook_dict(tensor)  # type: ignore[union-attr]
    else:
        tensor.register_hook(hook)


def _field_names(value: Any) -> Sequence[str]:
    """The fields of a named tuple or a dataclass; none for anything else."""
    if isinstance(value, tuple):
        names: Sequence[str] = value._fields  # type: ignore[attr-defined]
        return names
    if is_dataclass(value) and not isinstance(value, type):
        return [field.name for field in fields(value)]
    return ()
