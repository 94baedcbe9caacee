"""One training step of a subject's own, looked at from all sides, and undone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from probes.batch import map_leaves
from probes.bus import Bus, Kind, See
from probes.finding import ExperimentError
from probes.loop import Loop
from probes.raised import said, source_of
from probes.replay import Snapshot, held_back, replay
from probes.stepping.beside import modules_beside
from probes.stepping.hooked import before_steps
from probes.stepping.passes import Passes
from probes.stepping.pulled import Pulled, Pulls
from probes.stepping.scalers import told_of_scalers
from probes.stepping.scheduled import noted_schedules
from probes.stepping.unclipped import Unclipped
from probes.subject import Batch, Subject

CALLS = 16  # of `train_step` until its optimizer must have stepped, where it accumulates over calls


@dataclass(frozen=True, slots=True)
class Stepped:
    """What one optimizer step did.

    grads: what the optimizer saw, by parameter name. moved: the parameters that changed.
    buffers: the buffers that did. rates: the learning rate by parameter that the optimizer holds;
    whole: the rate of which a schedule gives that share.
    strangers: how many it holds that are not the model's; dead: those of them that require a
    gradient and have none. twice: names of those it holds twice.
    calls: calls of the step until the optimizer stepped. training: each module's mode in the last
    forward pass of the whole model; empty where that was never called. passes: how many backward
    passes gave parameters a gradient. lost: how many of them were cleared before an optimizer was
    stepped with them.
    schedules: how often the step itself stepped a schedule. pulled: what was moved towards a twin
    after the optimizer's step. thawed: the parameters that require no gradient and that the
    optimizer's step itself changed. scaled: whether a GradScaler scaled what was minimised.
    """

    grads: Mapping[str, Tensor | None]
    moved: frozenset[str]
    buffers: frozenset[str]
    rates: Mapping[str, float]
    whole: Mapping[str, float]
    strangers: int
    dead: int
    twice: tuple[str, ...]
    calls: int
    training: Mapping[str, bool]
    passes: int
    lost: int
    schedules: int
    pulled: Pulled | None
    thawed: frozenset[str]
    scaled: bool


@dataclass(slots=True)
class Modes:
    """Notes every module's mode as the model is called."""

    model: nn.Module
    modes: dict[str, bool] = field(default_factory=dict)
    sees: Mapping[Kind, See] = field(default_factory=lambda: {Kind.OUTPUT: _blind})

    def before(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], listening: bool) -> None:
        """The modes are noted, where the call is one of training."""
        if torch.is_grad_enabled():
            self.modes = {name: module.training for name, module in self.model.named_modules()}

    def after(self, output: Any) -> None:
        """Nothing is to be known then."""


def _blind(_: int, __: Tensor) -> None:
    """Sees nothing."""


def one_step(subject: Subject, batch: Batch) -> Stepped:
    """One step was taken and undone: parameters, buffers, modes, gradients, random states.

    Raises ExperimentError where the step raises, or where no call of it steps the optimizer.
    """
    model = subject.model
    modes = Modes(model)
    found: list[Stepped] = []

    def step() -> Tensor:
        loop = made(subject)  # which may put other modules into the model
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        passes, pulls, schedules = Passes(model), Pulls(model, before), list[LRScheduler]()
        scaled, noting = list[str](), (passes.noted(), pulls.noted())
        with (
            noting[0],
            noting[1],
            noted_schedules(schedules.append),
            told_of_scalers(lambda name, *_: scaled.append(name)),
        ):
            seen, rates, calls = until_stepped(loop, model, batch)
        after = dict(model.named_parameters())
        held = [p for group in loop.optimizer.param_groups for p in group["params"]]
        names = {id(p): name for name, p in after.items()}
        strange = [p for p in held if id(p) not in names]
        found.append(
            Stepped(
                grads=seen,
                moved=_moved(after, before),
                buffers=_moved(dict(model.named_buffers()), buffers),
                rates=rates,
                whole=_rates(loop.optimizer, names, "initial_lr"),
                strangers=len(strange),
                dead=sum(p.requires_grad and p.grad is None for p in strange),
                twice=tuple(n for i, n in names.items() if sum(id(p) == i for p in held) > 1),
                calls=calls,
                training=modes.modes,
                passes=len(passes.every),
                lost=len(passes.lost),
                schedules=sum(each is not loop.schedule for each in schedules),
                pulled=pulls.found(),
                thawed=frozenset(pulls.thawed),
                scaled="scale" in scaled,
            )
        )
        return torch.zeros(())

    with Bus(model, [modes], modes), ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return found[0]


def passes_of(subject: Subject, batch: Batch) -> Passes:
    """The backward passes up to an optimizer's step, with what the user's code reads; undone.

    Raises ExperimentError where the step raises, or where no call of it steps the optimizer.
    """
    model, found = subject.model, list[Passes]()

    def step() -> Tensor:
        loop = made(subject)
        found.append(Passes(model))
        with found[0].noted(reads=True):
            until_stepped(loop, model, batch)
        return torch.zeros(())

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return found[0]


def made(subject: Subject) -> Loop:
    """The loop with a fresh optimizer.

    Raises ExperimentError where the user's function raises, or makes no torch Optimizer.
    """
    try:
        loop = Loop(subject)
    except Exception as error:
        raise ExperimentError(f"`Subject.optimizer` raised {said(error)}{_at(error)}") from error
    made_of = type(loop.optimizer).__name__
    if not isinstance(loop.optimizer, Optimizer):
        raise ExperimentError(f"`Subject.optimizer` made a {made_of}, which is no torch Optimizer")
    return loop


def take_step(loop: Loop, batch: Batch) -> None:
    """One call of the step. Raises ExperimentError where it raises."""
    try:
        loop.step(map_leaves(batch, _own))
    except Exception as error:
        raise ExperimentError(f"a training step raised {said(error)}{_at(error)}") from error


def _at(error: Exception) -> str:
    place = source_of(error)
    return f" at {place}" if place else ""


def _own(_: str, leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def until_stepped(
    loop: Loop, model: nn.Module, batch: Batch
) -> tuple[dict[str, Tensor | None], dict[str, float], int]:
    """What the optimizer's first step saw, with the rates it had, and how many calls it took.

    Where that saw no gradient at all, as in a loop that steps on what the call before left, it is
    what one of the next saw.
    """
    rates: dict[str, float] = {}
    seen: list[dict[str, Tensor | None]] = []
    first = 0

    def look(*_: Any) -> None:
        if not seen or _is_bare(seen[0]):
            seen.clear()
            grads = ((n, p.grad) for n, p in model.named_parameters())
            seen.append({n: None if g is None else g.detach().clone() for n, g in grads})
            rates.update(_rates(loop.optimizer, names))

    names = {id(p): name for name, p in model.named_parameters()}
    with before_steps(loop.optimizer, look):
        for calls in range(1, CALLS + 1):
            take_step(loop, batch)
            first = first or (calls if seen else 0)
            if seen and (calls > first + 1 or not _is_bare(seen[0])):
                return seen[0], rates, first
    raise ExperimentError(
        f"`Subject.train_step` was called {CALLS} times and never stepped the optimizer"
    )


def _is_bare(grads: Mapping[str, Tensor | None]) -> bool:
    return all(grad is None for grad in grads.values())


def reached_in(subject: Subject, batch: Batch, times: int) -> frozenset[str]:
    """The parameters that a gradient reached in any of so many steps, each of which draws anew.

    Raises ExperimentError where a step raises.
    """
    model, found = subject.model, set[str]()

    def step() -> Tensor:
        loop = made(subject)
        for _ in range(times):
            seen, _, _ = until_stepped(loop, model, batch)
            found.update(name for name, grad in seen.items() if grad is not None)
        return torch.zeros(())

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return frozenset(found)


def held_back_steps(
    subject: Subject, batch: Batch, times: int = 3
) -> list[dict[str, Tensor | None]]:
    """The gradients of so many optimizer steps on the same batch, none of which writes.

    All start from the same random state; what one leaves in the gradients, it leaves, and nothing
    is clipped, which would make those alike that are not.
    """
    model, found = subject.model, []
    snapshot = Snapshot.take(model, parameters=True)

    def step() -> Tensor:
        loop = made(subject)
        with held_back(loop.optimizer) as seen:
            for _ in range(times):
                snapshot.restore()
                for _ in range(CALLS):
                    take_step(loop, batch)
                    if seen:
                        break
                grads = {id(p): g for p, g in seen}
                named = ((n, grads.get(id(p))) for n, p in model.named_parameters())
                found.append({n: None if g is None else g.detach().clone() for n, g in named})
                seen.clear()
        return torch.zeros(())

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, snapshot, under=[Unclipped()])
    return found


def step_under(subject: Subject, batch: Batch, *under: AbstractContextManager[Any]) -> None:
    """One step was taken inside of these, and undone: the subject's own, or its loss and backward.

    Raises ExperimentError where it raises.
    """
    model = subject.model

    def step() -> Tensor:
        if subject.train_step is not None:
            take_step(made(subject), batch)
            return torch.zeros(())
        try:
            loss = subject.loss(model, map_leaves(batch, _own))
            loss.backward()
        except Exception as error:
            raise ExperimentError(f"a training step raised {said(error)}{_at(error)}") from error
        return loss

    with ExitStack() as outside:
        if subject.train_step is not None:
            keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True), under=under)


def loss_after(subject: Subject, batch: Batch, steps: int) -> float:
    """The loss on the batch, in evaluation mode, after some steps on it; all is undone.

    Raises ExperimentError where a step raises.
    """
    model = subject.model

    def step() -> Tensor:
        loop = made(subject)
        for _ in range(steps):
            take_step(loop, batch)
        model.eval()
        with torch.no_grad():
            return subject.loss(model, map_leaves(batch, _own)).detach()

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        return float(replay(step, model, Snapshot.take(model, parameters=True)).loss)


def keep_strangers(subject: Subject, outside: ExitStack, loop: Loop | None = None) -> None:
    """What the optimizer holds and the model does not is given back as well.

    So are modules that `predict` reaches beside the model, as an average of it that the step moves.
    loop: whose optimizer that is; a fresh one's by default.
    """
    own = {id(p) for p in subject.model.parameters()}
    groups = (loop or made(subject)).optimizer.param_groups
    strangers = [p for group in groups for p in group["params"] if id(p) not in own]
    for each in modules_beside(subject).values():
        outside.callback(Snapshot.take(each, parameters=True).restore)
    for p in strangers:
        outside.callback(p.data.copy_, p.detach().clone())
        outside.callback(setattr, p, "grad", p.grad)


def _rates(optimizer: Optimizer, names: Mapping[int, str], kind: str = "lr") -> dict[str, float]:
    return {
        names[id(p)]: float(group.get(kind, group.get("lr", 1.0)))  # without one it still steps
        for group in optimizer.param_groups
        for p in group["params"]
        if id(p) in names
    }


def _moved(now: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> frozenset[str]:
    """The names under which something else stands than before, or something new."""
    return frozenset(name for name, each in now.items() if not _same(each, before.get(name)))


def _same(now: Tensor, before: Tensor | None) -> bool:
    if before is None or now.shape != before.shape:
        return False
    return bool(((now == before) | ((now != now) & (before != before))).all())
