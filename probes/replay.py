"""The same step again: what it started from is kept, and given back after each run."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.optim import Optimizer

from probes.modules import STATISTICS
from probes.numpy_state import numpy_state
from probes.states.added_hooks import hooks_known
from probes.states.generators import Standing, give_back, of_modules, standing
from probes.states.kept import Kept, let_go
from probes.states.remembered import remembered
from probes.stepping.roots import noted_roots

LEARNING = 3  # snapshots in which the modules' own generators are looked for


@dataclass(frozen=True, slots=True)
class RandomState:
    """Where python's, numpy's and torch's generators stand, every CUDA device's too.

    python, numpy: None where they were not looked at, and stay as they are.
    """

    python: tuple[Any, ...] | None
    numpy: Any
    cpu: Tensor
    cuda: tuple[Tensor, ...]

    @classmethod
    def take(cls, host: bool = True) -> RandomState:
        """The state of now; no generator moves. host: python's and numpy's too, which are slow."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        python, legacy = (random.getstate(), numpy_state.take()) if host else (None, None)
        return cls(python, legacy, torch.get_rng_state(), tuple(cuda))

    def same(self, other: RandomState) -> bool:
        """Whether no generator moved between the two."""
        own, theirs = (self.cpu, *self.cuda), (other.cpu, *other.cuda)
        moved = any(not torch.equal(one, two) for one, two in zip(own, theirs, strict=True))
        return not moved and self.same_host(other)

    def same_host(self, other: RandomState) -> bool:
        """Whether neither python's nor numpy's generator moved between the two."""
        pairs = zip(self.numpy, other.numpy, strict=True)
        return self.python == other.python and all(np.array_equal(one, two) for one, two in pairs)

    def restore(self) -> None:
        """Every generator stands where it stood."""
        if self.python is not None:
            random.setstate(self.python)
            np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a step starts from, beside its batch and, where the guard kept them, its parameters.

    random: the generators. buffers, parameters: copies; parameters only where asked for.
    generators: those that the modules, or the step, have for themselves, with where they stood.
    modes: every module with its train/eval flag. trained: every parameter with whether it requires
    a gradient, which a loop may switch off and on again within a step.
    """

    random: RandomState
    buffers: tuple[Kept, ...]
    parameters: tuple[Kept, ...]
    modes: tuple[tuple[nn.Module, bool], ...]
    trained: tuple[tuple[nn.Parameter, bool], ...]
    generators: tuple[Standing, ...] = ()

    @classmethod
    def take(cls, model: nn.Module, parameters: bool = False) -> Snapshot:
        """The state of now; nothing is read back from the device, and no generator moves."""
        modules = modules_of(model)
        buffers = [Kept.of(m._buffers, name) for m in modules if m._buffers for name in m._buffers]
        return cls(
            random=RandomState.take(),
            buffers=tuple(buffers),
            parameters=tuple(_parameters(modules)) if parameters else (),
            modes=tuple([(module, module.training) for module in modules]),
            trained=_trained(modules),
            generators=standing(of_modules(modules)),
        )

    def clean(self) -> set[int]:
        """The ids of the parameters that are kept and were finite."""
        return {
            id(kept.tensor)
            for kept in self.parameters
            if kept.copy is not None and is_finite(kept.copy)
        }

    def tensors(self) -> Iterator[Tensor]:
        """Its buffers and kept parameters that count how often they were written to."""
        for kept in (*self.buffers, *self.parameters):
            if kept.tensor is not None and not kept.tensor.is_inference():
                yield kept.tensor

    def restore(self) -> None:
        """Generators, buffers, modes and kept parameters are as they were when it was taken.

        So is what requires a gradient.
        """
        self.random.restore()
        give_back(self.generators)
        for kept in (*self.buffers, *self.parameters):
            kept.restore()
        for module, training in self.modes:
            module.training = training
        for parameter, requires_grad in self.trained:
            let_go(parameter)
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)


def modules_of(model: nn.Module) -> list[nn.Module]:
    """The modules of `model.modules()`, each once, at a fraction of its time."""
    found: dict[int, nn.Module] = {}
    todo: list[nn.Module | None] = [model]
    while todo:
        module = todo.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            if module._modules:
                todo += module._modules.values()
    return list(found.values())


class Snapshots:
    """Takes one snapshot after the other of a model whose modules stay the same: cheaply."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())
        self._owners = [module for module in self._modules if module._buffers]
        self._generators: list[Any] = []
        self._left = LEARNING

    def take(
        self, random: RandomState, parameters: bool = False, more: Iterable[Any] = ()
    ) -> Snapshot:
        """The state of now, with these generators; parameters only where asked for.

        more: generators that the step has for itself.
        """
        if self._left:
            self._left, self._generators = self._left - 1, of_modules(self._modules)
        buffers = [Kept.of(m._buffers, name) for m in self._owners for name in m._buffers]
        kept = tuple(_parameters(self._modules)) if parameters else ()
        modes = [module.training for module in self._modules]
        modes_by_module = tuple(zip(self._modules, modes, strict=True))
        trained, own = _trained(self._modules), standing([*self._generators, *more])
        return Snapshot(random, tuple(buffers), kept, modes_by_module, trained, own)


def _trained(modules: Sequence[nn.Module]) -> tuple[tuple[nn.Parameter, bool], ...]:
    held = [m._parameters for m in modules if m._parameters]
    return tuple([(p, p.requires_grad) for each in held for p in each.values() if p is not None])


def _parameters(modules: Sequence[nn.Module]) -> Iterator[Kept]:
    for module in modules:
        owner: dict[str, Tensor | None] = module._parameters  # type: ignore[assignment]
        yield from (Kept.of(owner, name) for name in owner if not _is_empty(owner[name]))


def _is_empty(parameter: Tensor | None) -> bool:
    return isinstance(parameter, nn.UninitializedParameter)  # a lazy module's, before it ran


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replayed step gave.

    loss: detached. grads: parameter name to the gradient that the optimizer would have seen.
    buffers: those that hold a NaN, or as statistics an infinity, and held none before, by name.
    """

    loss: Tensor
    grads: Mapping[str, Tensor | None]
    buffers: Mapping[str, Tensor] = field(default_factory=dict)

    def same_as(self, other: Replayed) -> bool:
        """Equal to the bit, NaN where NaN is, and no gradient where there is none."""
        return _same(self.loss, other.loss) and all(
            _same(grad, other.grads.get(name)) for name, grad in self.grads.items()
        )

    def symptoms(self) -> dict[str, Tensor]:
        """What is not finite, by name: the loss as `<loss>`, gradients by parameter, buffers."""
        found = {"<loss>": self.loss, **self.grads}
        odd = {name: t for name, t in found.items() if t is not None and not is_finite(t)}
        return {**self.buffers, **odd}


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; integers always are finite. Reads the device."""
    values = tensor.detach()
    if values.layout is torch.sparse_coo:
        values = values._values()
    return bool(torch.isfinite(values).all())


def _same(one: Tensor | None, two: Tensor | None) -> bool:
    if one is None or two is None:
        return one is two
    one, two = (t.detach().to_dense() if t.is_sparse else t.detach() for t in (one, two))
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    return bool(((one == two) | ((one != one) & (two != two))).all())


def replay(
    step: Callable[[], Tensor],
    model: nn.Module,
    snapshot: Snapshot,
    *,
    under: Sequence[AbstractContextManager[Any]] = (),
    optimizers: Sequence[Optimizer] = (),
) -> Replayed:
    """The step has run again from the snapshot, and nothing outside has changed.

    step: the loss and its backward pass; it returns the loss, or nothing.
    under: context managers to run it in, the first outermost, such as a dispatch mode.
    optimizers: held back where the step itself would call them, as a whole train step does; of one
    that holds another, as SAM does, the inner one.

    Parameters, their gradients and whether they require one, buffers, modes, random states and the
    modules' plain attributes, with what these hold, are afterwards as they were before, and hooks
    that the step put on are off, also where it raises. What else the user's code counts up by
    itself is not known here.
    """
    parameters = dict(model.named_parameters())
    with given_back(model), ExitStack() as last:
        last.callback(give_back, standing([each for each, _ in snapshot.generators]))
        _give_back(parameters, dict.fromkeys(parameters))
        snapshot.restore()
        innermost = [each for each in with_inner(optimizers) if not _inner(each)]
        held = [last.enter_context(held_back(each)) for each in innermost]
        roots: list[Tensor] = []
        with noted_roots(roots.append):
            loss = _minimised(_run(step, under), roots)
        grads = {name: parameter.grad for name, parameter in parameters.items()}
        seen = {id(p): grad for seen in held for p, grad in seen}
        for name, parameter in parameters.items():
            grads[name] = seen.get(id(parameter), grads[name])
        return Replayed(loss.detach(), grads, _turned_odd(model, snapshot))


@contextmanager
def given_back(model: nn.Module) -> Iterator[None]:
    """Afterwards the model is as it was, and the random states are, also where something raises.

    Its parameters, their gradients and whether they require one, buffers, modes, plain
    attributes, with what these hold, and its hooks, of which none is there that was not.
    """
    parameters = dict(model.named_parameters())
    now = Snapshot.take(model, parameters=True)
    given = {name: parameter.grad for name, parameter in parameters.items()}
    with ExitStack() as last:
        for each in now.tensors():  # a graph of before must not think that they changed
            last.enter_context(_unsafe_preserve_version_counter(each))
        last.callback(_give_back, parameters, given)
        last.callback(now.restore)
        last.callback(hooks_known(model))
        last.callback(remembered(model))
        last.callback(_give_attributes_back, [(m, dict(vars(m))) for m in model.modules()])
        yield


def _minimised(told: object, roots: Sequence[Tensor]) -> Tensor:
    """The first that was minimised and is not finite; failing that, what the step returned.

    A step of the user's own may return nothing: then it is the last that was minimised.
    """
    odd = next((root for root in roots if not is_finite(root)), None)
    if odd is not None:
        return odd
    if isinstance(told, Tensor):
        return told
    return roots[-1] if roots else torch.zeros(())


def _turned_odd(model: nn.Module, snapshot: Snapshot) -> dict[str, Tensor]:
    was = {(id(k.owner), k.name) for k in snapshot.buffers if _is_odd(k.name, k.copy)}
    return {
        f"{place}.{name}" if place else name: buffer
        for place, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and _is_odd(name, buffer) and (id(module._buffers), name) not in was
    }


def _is_odd(name: str, tensor: Tensor | None) -> bool:
    if tensor is None or not tensor.is_floating_point():
        return False
    return not is_finite(tensor) if name.endswith(STATISTICS) else bool(tensor.isnan().any())


def _give_attributes_back(kept: Sequence[tuple[nn.Module, dict[str, Any]]]) -> None:
    """Such as a state that is carried from call to call, or a count of the calls."""
    for module, before in kept:
        attributes = vars(module)
        if attributes.keys() != before.keys() or any(
            attributes[name] is not value for name, value in before.items()
        ):
            attributes.clear()
            attributes.update(before)


def _give_back(parameters: Mapping[str, nn.Parameter], grads: Mapping[str, Tensor | None]) -> None:
    for name, parameter in parameters.items():
        parameter.grad = grads[name]


def _run(step: Callable[[], Tensor], under: Sequence[AbstractContextManager[Any]]) -> Tensor:
    torch.clear_autocast_cache()  # a weight cast before the replay would have no history
    with warnings.catch_warnings(), ExitStack() as inside:
        warnings.simplefilter("ignore")  # they were shown when the step ran first
        inside.enter_context(torch.enable_grad())
        for each in under:
            inside.enter_context(each)
        return step()


def with_inner(optimizers: Iterable[Any]) -> list[Optimizer]:
    """The optimizers, and those that they hold as attributes, such as SAM's base, each once.

    A wrapper that is no Optimizer itself is looked into as well.
    """
    found: dict[int, Any] = {}
    todo = list(optimizers)
    while todo:
        optimizer = todo.pop(0)
        if id(optimizer) not in found:
            found[id(optimizer)] = optimizer
            todo += _inner(optimizer)
    return [each for each in found.values() if isinstance(each, Optimizer) and not _is_shell(each)]


def _is_shell(optimizer: Optimizer) -> bool:
    """Whether it is an Optimizer by name alone, as Accelerate's: it steps the one it holds."""
    return not hasattr(optimizer, "_optimizer_step_pre_hooks")


def _inner(optimizer: Any) -> list[Optimizer]:
    return [each for each in vars(optimizer).values() if isinstance(each, Optimizer)]


@contextmanager
def held_back(
    optimizer: Optimizer, note: Callable[[], None] | None = None
) -> Iterator[list[tuple[nn.Parameter, Tensor | None]]]:
    """Steps of the optimizer do nothing but to list each parameter with the gradient it has.

    A closure that is passed to it runs, once; then `note` does. Learning rates end as they began.
    """
    seen: list[tuple[nn.Parameter, Tensor | None]] = []
    groups = optimizer.param_groups
    settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]

    def hold(closure: Callable[[], Any] | None = None, **_: Any) -> Any:
        loss = None if closure is None else closure()
        seen[:] = [(p, p.grad) for group in groups for p in group["params"]]
        if note is not None:
            note()
        return loss

    own = vars(optimizer)
    before = own.get("step")  # a schedule has put its own there
    own["step"] = hold
    try:
        yield seen
    finally:
        own.pop("step")
        if before is not None:
            own["step"] = before
        for group, setting in zip(groups, settings, strict=True):
            group.update(setting)
