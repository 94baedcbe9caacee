"""An update of an optimizer, kept so that it can be run again where it gives a NaN."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import _disable_current_modes

from nan_watch.case.optimizers import is_extreme, is_plain, vanishing
from nan_watch.case.symptom import Symptom
from nan_watch.causes.poisoned_parameter import PoisonedParameter
from nan_watch.flags import Doubles
from nan_watch.inquest.copies import EACH, Copied, as_sick, copied, one_process, starting
from nan_watch.inquest.from_line import Line
from nan_watch.inquest.hold import Inquest, Repeatable
from nan_watch.inquest.optimizer_code import Risk, risk
from probes.finding import Evidence, Finding
from probes.replay import RandomState, Snapshot, is_finite, replay

TORCHS = ("defaults", "_optimizer_", "_hook_", "_zero_grad_profile", "_patch_", "_warned_")
"""How the attributes begin that torch gives every optimizer and that no step changes."""
LARGE = 2**22  # numbers in the parameters of an update that is kept
LARGEST = 2**27  # bytes of all that is copied of it
SMALL = EACH // 8  # numbers in the parameters of one that is kept at every step, with gradients
ENTRIES = 16  # that an optimizer holds for each of its parameters
FIRST = 2  # updates of the run that are kept
TINY, HUGE = 1e-18, 1e18  # norms whose square is next to nothing, or to infinity
HUGE_HALF = 2.0**12  # of a gradient of halves, which end at 65504
CONTAINERS = (dict, list, tuple, defaultdict, OrderedDict, deque)
WITHIN = "update"


class Leaf(int):
    """The place of a copy, where a tensor stood."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a step of the optimizer started from.

    parameters: with the places of their copies and of their gradients'. attributes: of the
    optimizer, its groups and state among them, with a Leaf for each tensor. copied: all of them.
    line: of the user's, that took the step.
    """

    optimizer: Optimizer
    parameters: Sequence[tuple[Tensor, Leaf, Leaf | None]]
    attributes: Mapping[str, Any]
    copied: Copied
    random: RandomState
    line: Line

    @property
    def written(self) -> list[Tensor]:
        """Each parameter."""
        return [parameter for parameter, *_ in self.parameters]

    @property
    def before(self) -> list[tuple[Tensor, Tensor]]:
        """Each parameter with what it held."""
        copies = self.copied.each()
        return [(parameter, copies[at]) for parameter, at, _ in self.parameters]

    @property
    def is_torchs(self) -> bool:
        """Whether it can be taken one operator, and one parameter, after the other."""
        return is_plain(self.optimizer)

    def run(self, *, plain: bool = False) -> Tensor:
        """The step has been taken again; returns the first parameter that it poisoned, or zero.

        plain: without the kernels that do several operators, or parameters, at once.
        """
        with self.as_it_was(plain=plain):
            step = type(self.optimizer).step
            step = getattr(step, "__wrapped__", step)  # without the hooks upon it
            self.line.call(partial(step, self.optimizer))
        with _disable_current_modes():
            odd = next((each for each in self.written if not is_finite(each)), None)
            return torch.zeros(()) if odd is None else odd.detach()

    @contextmanager
    def as_it_was(self, *, plain: bool = False) -> Iterator[None]:
        """Inside, gradients and the optimizer's attributes are as they were."""
        own, grads = vars(self.optimizer), [p.grad for p, *_ in self.parameters]
        now = dict(own)
        with _disable_current_modes():
            copies = [each.clone() for each in self.copied.each()]
            own.update({name: _filled(each, copies) for name, each in self.attributes.items()})
            for parameter, _, at in self.parameters:
                parameter.grad = None if at is None else copies[at]
            if plain:
                _made_plain(self.optimizer)
        try:
            yield
        finally:
            own.clear()
            own.update(now)
            for (parameter, *_), grad in zip(self.parameters, grads, strict=True):
                parameter.grad = grad


class KeptUpdates:
    """Keeps an update of an optimizer where it may go wrong; the others cost next to nothing.

    Such are the first two, whose state begins at zero, and each whose settings are extreme, or that
    takes the root of a difference. Of torch's own, each too whose eps is no number in the
    parameters' precision, or whose gradients are extreme. Of an optimizer whose step is not torch's
    own, each too in which a parameter's gradient is for the first time zero, next to it, or too
    large to be squared; and each that is small and divides by what nothing keeps off zero.
    """

    def __init__(self, model: nn.Module) -> None:
        self._models = {id(parameter) for parameter in model.parameters()}
        halves = any(parameter.dtype is torch.float16 for parameter in model.parameters())
        self._huge = HUGE_HALF if halves else HUGE
        self._taken = Counter[int]()
        self._risks: dict[tuple[Any, ...], Risk] = {}  # looking at each parameter costs time
        self._odd: set[int] = set()  # places of parameters whose gradient has been so
        self._vast: set[tuple[int, int]] = set()  # optimizers that hold too much, by parameters
        self.newest: Update | None = None

    def before(self, optimizer: Optimizer, grads: Doubles, *, bare: bool) -> None:
        """The step that it is about to take can be taken again, where it is kept.

        grads: norms of the gradients, minus one where there is none. bare: whether the step is
        given nothing.
        """
        self.newest = None
        self._taken[id(optimizer)] += 1
        plain = is_plain(optimizer)
        if not plain and not (bare and one_process()):
            return
        rare = self._is_rare(optimizer, grads)
        key = id(optimizer), sum(len(group["params"]) for group in optimizer.param_groups)
        if key in self._vast and not rare:
            return
        level = Risk.DIFFERENCE if rare else self._risk(optimizer)
        if level is Risk.NONE:
            return
        numbers, most = (SMALL, EACH) if level is Risk.EDGE else (LARGE, LARGEST)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        few = sum(map(Tensor.numel, parameters)) <= numbers
        if few and {id(parameter) for parameter in parameters} <= self._models:
            self.newest = self._kept(optimizer, parameters, most)
        if self.newest is None:
            self._vast.add(key)  # looking at each tensor costs time

    def _is_rare(self, optimizer: Optimizer, grads: Doubles) -> bool:
        """Whether it is one of a few in a run."""
        first = self._taken[id(optimizer)] <= FIRST
        if is_plain(optimizer):
            return first or bool((grads > self._huge).any())
        return self._is_news(grads) or first

    def _risk(self, optimizer: Optimizer) -> Risk:
        groups = optimizer.param_groups
        if any(group.get("centered") for group in groups) or is_extreme(optimizer):
            return Risk.DIFFERENCE
        kinds = [(group.get("eps"), group.get("fused"), len(group["params"])) for group in groups]
        key = (id(optimizer), *kinds)
        if key not in self._risks:
            self._risks[key] = _risk(optimizer)
        return self._risks[key]

    def _is_news(self, grads: Doubles) -> bool:
        """Whether a gradient is for the first time next to nothing, or too large."""
        zero = (grads >= 0) & (grads < TINY)
        odd = set(np.flatnonzero(zero | (grads > HUGE)).tolist())
        new = odd - self._odd
        self._odd |= odd
        return bool(new)

    def _kept(self, optimizer: Optimizer, parameters: Sequence[Tensor], most: int) -> Update | None:
        """It; None where it holds more bytes, or more entries than its parameters account for."""
        held, sources = {id(parameter) for parameter in parameters}, list[Tensor]()
        entries = 0

        def leaf(tensor: Tensor) -> Leaf:
            sources.append(tensor)
            return Leaf(len(sources) - 1)

        def kept(value: Any) -> Any:
            nonlocal entries
            entries += 1
            if isinstance(value, Tensor):
                return value if id(value) in held else leaf(value)
            return rebuilt(value, kept)

        of = [(p, leaf(p), None if p.grad is None else leaf(p.grad)) for p in parameters]
        its = {k: kept(v) for k, v in vars(optimizer).items() if not k.startswith(TORCHS)}
        few = entries <= ENTRIES * (16 + len(parameters))  # and no list that grows with the run
        copies = copied(sources, most) if few else None
        if copies is None:
            return None
        line = Line.of(sys._getframe(1))
        return Update(optimizer, of, its, copies, RandomState.take(host=False), line)


def _risk(optimizer: Optimizer) -> Risk:
    """What its code has; of torch's own, whether its eps is no number in its precision.

    What can be told to center, and is not, takes no root of a difference; and an eps of zero
    guards nothing.
    """
    if is_plain(optimizer):
        return Risk.NONE if next(vanishing(optimizer), None) is None else Risk.DIFFERENCE
    groups, found = optimizer.param_groups, risk(type(optimizer))
    told = found is Risk.DIFFERENCE and any("centered" in group for group in groups)
    bare = found is Risk.NONE and any(group.get("eps") == 0 for group in groups)
    return Risk.EDGE if told or bare else found


def _made_plain(optimizer: Optimizer) -> None:
    """It steps one parameter after the other, by one operator after the other."""
    scale = vars(optimizer).pop("grad_scale", None)  # which a fused one divides by itself
    vars(optimizer).pop("found_inf", None)
    for group in optimizer.param_groups:
        group.update({name: False for name in ("foreach", "fused") if name in group})
        for parameter in group["params"]:
            if scale is not None and parameter.grad is not None:
                parameter.grad.div_(scale)


def by_update(
    update: Update | None, inquest: Inquest, symptom: Symptom, finding: Finding
) -> Finding | None:
    """The finding as the update tells it; None where it was not this update's doing."""
    if update is None or not all(is_finite(copy) for _, copy in update.before):
        return None
    snapshot = replace(Snapshot.take(inquest.model), random=update.random)
    start = starting(inquest.model, update.before, snapshot)
    now, again = [each.detach().clone() for each in update.written], list[Tensor]()

    def as_before(*, plain: bool) -> bool:
        def run() -> Tensor:
            first = update.run(plain=plain)
            again[:] = [each.detach().clone() for each in update.written]
            return first

        try:
            replay(run, inquest.model, start)
        except Exception:  # what it needs is gone
            return False
        return as_sick(again, now)

    plain = update.is_torchs and as_before(plain=True)
    if not as_before(plain=False):
        return None
    step = Repeatable(
        partial(update.run, plain=plain),
        start,
        returns=symptom.state[0].name,
        packs=False,
        within=WITHIN,
    )
    with update.as_it_was():  # settings too
        told = inquest.hold(symptom.of_its_update(), finding, step)
    if inquest.found is None or told.op is None or told.code == PoisonedParameter.code:
        return None
    same = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(again, now, strict=True))
    said = Evidence(
        f"the step of {type(update.optimizer).__name__}, run again from what it started from",
        "the parameters as they are" + (", to the bit" if same else ", where they are not finite"),
    )
    return replace(told, evidence=(*told.evidence, said))


def rebuilt(value: Any, of: Callable[[Any], Any]) -> Any:
    """A container with what `of` makes of each that it holds; what is none is itself."""
    kind = type(value)
    if kind not in CONTAINERS:
        return value
    if kind is defaultdict:
        return defaultdict(value.default_factory, {key: of(each) for key, each in value.items()})
    if kind in (dict, OrderedDict):
        return kind([(key, of(each)) for key, each in value.items()])
    return kind([of(each) for each in value])


def _filled(value: Any, copies: Sequence[Tensor]) -> Any:
    """The value with the copies where leaves stand."""
    if isinstance(value, Leaf):
        return copies[value]
    return rebuilt(value, lambda each: _filled(each, copies))
