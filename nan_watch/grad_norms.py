"""Every parameter's gradient norm as the optimizer sees it, and before clipping: computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.flags import Doubles
from nan_watch.state import Poisoned, poisoned
from probes.bus import Kind, See
from probes.wrapped import is_sharded, local


def named_parameters(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The model's parameters, then those that only the optimizer holds, by name."""
    named: dict[str, Tensor] = dict(model.named_parameters())
    known = {id(parameter) for parameter in named.values()}
    for group, facts in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(facts["params"]):
            if id(parameter) not in known:
                named[f"<optimizer>[{group}][{place}]"] = parameter
    return named


def norms_of(grads: Sequence[Tensor]) -> list[Tensor]:
    """The 2-norm of each gradient, () each and without a graph.

    A sparse one's is taken of its values, a sharded one's of the part that lies here.
    """
    if not grads:
        return []
    with torch.no_grad():
        parts = [local(g) for g in grads]
        dense = [g if g.layout is torch.strided else g.coalesce().values() for g in parts]
        kinds = {(g.dtype, g.device) for g in dense}
        if len(kinds) == 1:
            return list(torch._foreach_norm(dense))
        return _by_kind(dense, kinds)


def _by_kind(
    grads: Sequence[Tensor], kinds: Iterable[tuple[torch.dtype, torch.device]]
) -> list[Tensor]:
    """The norms in the order of the gradients; those of a kind together, as torch's clipping."""
    found: dict[int, Tensor] = {}
    for kind in kinds:
        places = [i for i, g in enumerate(grads) if (g.dtype, g.device) == kind]
        norms = torch._foreach_norm([grads[i] for i in places])
        found |= dict(zip(places, norms, strict=True))
    return [found[i] for i in range(len(grads))]


@dataclass(frozen=True, slots=True)
class Norms:
    """The gradient norms of one step, not seen where there is no gradient.

    places: the parameters' places that have one. seen: (place,) as the optimizer sees it.
    before: (place,) before clipping, None where `watch.clip_grad_norm_` was not called.
    total: the total norm before clipping. factor: what the gradients were multiplied by.
    """

    places: list[int]
    seen: Doubles
    before: Doubles | None = None
    total: float | None = None
    factor: float | None = None


@dataclass(frozen=True, slots=True)
class _Clipped:
    """What a call of `clip` computed; it holds while the gradients are at these versions.

    first: the norms before the first of several calls. norms, scaled: the norms before the last
    one, and which of them it scaled by `factor`.
    """

    places: list[int]
    first: list[Tensor]
    norms: list[Tensor]
    scaled: list[bool]
    total: Tensor
    factor: Tensor
    versions: list[tuple[int, int]]


class GradNorms:
    """Norms of the gradients of the named parameters."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model = model
        self.optimizer = optimizer
        self._clipped: _Clipped | None = None
        self._unchanged = False
        self.reached = 0  # steps in which any parameter had a gradient
        self.refresh()

    def refresh(self) -> None:
        """The parameters are those that model and optimizer hold now."""
        self.named = named_parameters(self.model, self.optimizer)
        self.names = list(self.named)
        self.parameters = list(self.named.values())
        self._held_count = self._count()
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        self.held = [id(parameter) in held for parameter in self.parameters]

    def _count(self) -> int:
        return sum([len(group["params"]) for group in self.optimizer.param_groups])

    def _grads(self) -> tuple[list[int], list[Tensor]]:
        if self._count() != self._held_count:
            self.refresh()
        places, grads = [], []
        for place, parameter in enumerate(self.parameters):
            grad = parameter.grad
            if grad is not None:
                places.append(place)
                grads.append(grad)
        return places, grads

    @torch.no_grad()
    def clip(self, max_norm: float, parameters: Iterable[Tensor] | None) -> Tensor:
        """The gradients are clipped as by `torch.nn.utils.clip_grad_norm_`, to the same bits.

        parameters: those that are clipped together; by default all of the model's.
        Returns the total norm before clipping, ().
        """
        chosen = list(self.model.parameters() if parameters is None else parameters)
        places, grads = self._grads()
        norms, earlier = norms_of(grads), self._valid(grads)
        scope = {id(parameter) for parameter in chosen}
        scaled = [id(self.parameters[place]) in scope for place in places]
        norm_of = {
            id(self.parameters[place]): norm for place, norm in zip(places, norms, strict=True)
        }
        inside = [parameter for parameter in chosen if parameter.grad is not None]
        if _alike([p.grad for p in inside]) and all(id(p) in norm_of for p in inside):
            total: Tensor = torch.linalg.vector_norm(
                torch.stack([norm_of[id(p)] for p in inside]), 2.0
            )
            factor = torch.clamp(max_norm / (total + 1e-6), max=1.0)
            torch._foreach_mul_([p.grad for p in inside if p.grad is not None], factor)
        else:  # torch groups them by device and kind, and so orders its sum
            total = torch.nn.utils.clip_grad_norm_(chosen, max_norm)
            if is_sharded(total):
                total = total.full_tensor()  # type: ignore[attr-defined]
            factor = torch.clamp(max_norm / (total + 1e-6), max=1.0)
        first = earlier.first if earlier is not None else norms
        versions = _versions(grads)
        self._clipped = _Clipped(places, first, norms, scaled, total, factor, versions)
        return total

    def _valid(self, grads: Sequence[Tensor]) -> _Clipped | None:
        """What `clip` computed, where nothing has changed the gradients since."""
        clipped = self._clipped
        return clipped if clipped is not None and clipped.versions == _versions(grads) else None

    def waiting(self) -> list[Tensor]:
        """What is to be read for this step, computed now unless `clip` has done so."""
        places, grads = self._grads()
        clipped = self._clipped
        self._unchanged = self._valid(grads) is not None
        self._places = places
        self.reached += bool(places)
        if clipped is None:
            return norms_of(grads)
        once = self._unchanged and clipped.norms is clipped.first
        last = [] if once else clipped.norms if self._unchanged else norms_of(grads)
        return [*last, *clipped.first, clipped.total, clipped.factor]

    def take(self, numbers: Doubles, scale: float = 1.0) -> Norms:
        """The step's norms, from what was read of `waiting`.

        scale: of the loss, where the optimizer divides the gradients by it as it steps.
        """
        clipped, self._clipped = self._clipped, None
        if scale != 1.0 and clipped is None:
            numbers = numbers / scale
        if clipped is None:
            return Norms(self._places, self._wide(self._places, numbers))
        before = numbers[-2 - len(clipped.first) : -2]
        last = numbers[: -2 - len(clipped.first)] if len(numbers) > 2 + len(before) else before
        total, factor = numbers[-2:].tolist()
        if self._unchanged:
            with np.errstate(invalid="ignore"):  # inf * 0 is the NaN that clipping makes of it
                last = last * np.where(clipped.scaled, factor, 1.0)
        seen, first = self._wide(self._places, last), self._wide(clipped.places, before)
        return Norms(self._places, seen, first, total, factor)

    def poisoned(self, norms: Norms) -> tuple[Poisoned, ...]:
        """The gradients that the optimizer would write and that are not finite, exactly.

        A norm that is not finite is only a reason to look: a finite gradient can overflow it.
        """
        alarm = ~(norms.seen < math.inf)
        named = {
            self.names[place]: grad
            for place in np.flatnonzero(alarm).tolist()
            if self.held[place] and (grad := self.parameters[place].grad) is not None
        }
        return poisoned(named, infinity_has_a_meaning=False) if named else ()

    def _wide(self, places: list[int], numbers: Doubles) -> Doubles:
        """(place,) with minus one, which no norm is, where nothing was seen."""
        if len(places) == len(self.parameters):
            return numbers
        wide = np.full(len(self.parameters), -1.0)
        wide[places] = numbers
        return wide


def _alike(grads: Sequence[Tensor | None]) -> bool:
    """Whether all are plain, dense and of one dtype and device; false where there is none."""
    kinds = {(type(g), g.dtype, g.device, g.layout) for g in grads if g is not None}
    return len(kinds) == 1 and next(iter(kinds))[0] is Tensor and torch.strided in next(iter(kinds))


def _versions(grads: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(id(grad), grad._version) for grad in grads]


class HookedNorms:
    """Gradient norms at the moment of their accumulation, by hooks on the parameters."""

    def __init__(self) -> None:
        self.sees: Mapping[Kind, See] = {Kind.PARAM_GRAD: self.see}
        self._norms: dict[int, Tensor] = {}

    def see(self, number: int, grad: Tensor) -> None:
        """The norm of the gradient so far; of several accumulations the last one counts."""
        self._norms[number] = norms_of([grad])[0]

    @property
    def waiting(self) -> list[Tensor]:
        """What is to be read."""
        return list(self._norms.values())

    def take(self, numbers: Doubles, name_of: Callable[[int], str]) -> dict[str, float]:
        """Parameter name to norm, from what was read of `waiting`."""
        names = [name_of(number) for number in self._norms]
        self._norms = {}
        return dict(zip(names, numbers.tolist(), strict=True))
