"""What a loop does between a step of its optimizer and the next forward pass, run again."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import _disable_current_modes

from nan_watch.case.symptom import Symptom
from nan_watch.inquest.copies import Copied, as_sick, copied, one_process, starting
from nan_watch.inquest.frame_names import Names, attributes_of, copies, is_of_user, seen, undo
from nan_watch.inquest.glimpse import glimpse
from nan_watch.inquest.hold import Inquest, Repeatable
from nan_watch.inquest.marks import Marks, users_frames
from nan_watch.inquest.own_lines import no_step
from nan_watch.inquest.passage import Passage
from nan_watch.inquest.stages import Plan, Stage, planned
from nan_watch.inquest.writers import ANY
from nan_watch.origin.sources import Kind, kind_of
from probes.finding import Evidence, Finding
from probes.replay import RandomState, Snapshot, Snapshots, is_finite, replay

FEW = 32  # parameters that are copied at every step
PLANS = 64  # places from which an optimizer is stepped
WITHIN = "code after the update"


@dataclass(frozen=True, slots=True)
class Kept:
    """The moment after a step.

    plan: what may write since. written: the parameters that may be. copied: they, and the
    gradients of those of them that are `reached`. attributes: what modules of the user's own held.
    """

    plan: Plan
    names: Mapping[int, Names]
    snapshot: Snapshot
    written: Sequence[Tensor]
    copied: Copied
    attributes: Sequence[tuple[nn.Module, Mapping[str, Any]]]
    reached: Sequence[Tensor] = ()

    @property
    def parameters(self) -> list[tuple[Tensor, Tensor]]:
        """Each that may be written with what it held."""
        return list(zip(self.written, self.copied.each(), strict=False))

    def give_grads(self) -> None:
        """The parameters that had a gradient have a copy of it."""
        copies = self.copied.each()[len(self.written) :]
        for parameter, copy in zip(self.reached, copies, strict=True):
            parameter.grad = copy.clone()


class Between:
    """Keeps what a loop's own lines start from, once a step has been taken, where they may write.

    Whether they may is read from their source, once.
    """

    def __init__(self, model: nn.Module, marks: Marks) -> None:
        self._model, self._marks = model, marks
        self._snapshots = Snapshots(model)
        self._holders = [each for each in model.modules() if each._parameters]
        self._own = [each for each in model.modules() if is_of_user(type(each).__module__)]
        self._plans: dict[tuple[tuple[CodeType, int], ...], Plan | None] = {}
        self._idle: set[tuple[CodeType, int]] = set()
        self.newest: Kept | None = None

    def after(self) -> None:
        """The optimizer's step has been taken."""
        self.newest = None
        first = next(users_frames(sys._getframe(1)), None)
        if first is None or (first.f_code, first.f_lasti) in self._idle:
            return
        frames = list(users_frames(first))
        key = tuple([(each.f_code, each.f_lasti) for each in frames])
        if key not in self._plans:
            fit = len(self._plans) < PLANS and one_process()
            self._plans[key] = self._planned(frames, _is_by_library(sys._getframe(1)), fit)
        if (plan := self._plans[key]) is not None:
            self._keep(plan, frames)
        else:
            self._idle.add(key[0])  # from wherever its function is called: looking costs time

    def _planned(self, frames: Sequence[FrameType], by_library: bool, fit: bool) -> Plan | None:
        try:
            return planned(frames, self._model, self._marks, by_library) if fit else None
        except Exception:  # of source that cannot be read: the loop itself must not end
            return None

    def _keep(self, plan: Plan, frames: Sequence[FrameType]) -> None:
        parameters = self._written(plan.targets)
        reached = [each for each in parameters if each.grad is not None]
        sources = [*parameters, *(each.grad for each in reached if each.grad is not None)]
        before = copied(sources) if len(parameters) <= FEW else None
        if before is None:
            return
        self.newest = Kept(
            plan,
            {at: Names.of(frames[at], names) for at, names in plan.reads.items()},
            self._snapshots.take(RandomState.take(host=False)),
            parameters,
            before,
            [(each, attributes_of(each)) for each in self._own],
            reached,
        )

    def _written(self, targets: frozenset[str]) -> list[Tensor]:
        """The parameters of these names, each once; all of them where it may be any."""
        found: dict[int, Tensor] = {}
        for module in self._holders:
            for name, each in module._parameters.items():
                if each is not None and (ANY in targets or name in targets):
                    found[id(each)] = each
        return list(found.values())


@dataclass(frozen=True, slots=True)
class Turn:
    """A passage on the names of a frame. anew: those that the loop has set for its next turn."""

    passage: Passage
    frame: int
    anew: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lines:
    """Passages that ran one after the other, each on the names of its frame."""

    model: nn.Module
    kept: Kept
    turns: Sequence[Turn]

    def run(self) -> Tensor:
        """They have run again; returns the first parameter that they poisoned, or zero."""
        held = self.kept.names
        names = {at: {**each.globals, **copies(each.values)} for at, each in held.items()}
        with self._given_back(names), no_step(), redirect_stdout(io.StringIO()):
            for each in self.turns:
                names[each.frame].update(each.anew)
                exec(each.passage.code, names[each.frame])
        with _disable_current_modes():
            odd = next((t for t in self.kept.written if not is_finite(t)), None)
            return torch.zeros(()) if odd is None else odd.detach()

    def __str__(self) -> str:
        """Which lines they are."""
        return " and ".join(dict.fromkeys(str(each.passage) for each in self.turns))

    @contextmanager
    def _given_back(self, names: Mapping[int, Mapping[str, Any]]) -> Iterator[None]:
        """Inside, objects hold what they held; afterwards all that is named is as it is now."""
        with ExitStack() as last, _disable_current_modes():
            for at, each in self.kept.names.items():
                for name in each.values:
                    last.callback(undo(names[at][name], self.model))
                for owner, attributes in each.owned:
                    vars(owner).update(copies(attributes))
            for module, held in self.kept.attributes:  # which the replay itself gives back
                vars(module).update(copies(held))
            self.kept.give_grads()
            gives_back = last.pop_all()
        with gives_back:
            yield


def by_lines_between(
    kept: Kept | None, inquest: Inquest, symptom: Symptom, finding: Finding
) -> Finding | None:
    """The finding as the lines after the update tell it; None where it was not their doing."""
    if kept is None or not all(is_finite(copy) for _, copy in kept.parameters):
        return None
    lines = _lines(kept, inquest.model)
    if lines is None:
        return None
    start = starting(inquest.model, kept.parameters, kept.snapshot)
    now, again = [each.detach().clone() for each in kept.written], list[Tensor]()

    def run() -> Tensor:
        first = lines.run()
        again[:] = [each.detach().clone() for each in kept.written]
        return first

    try:
        replay(run, inquest.model, start, optimizers=[inquest.optimizer])
    except Exception:  # what they need is gone, or they would have stepped an optimizer
        return None
    if not as_sick(again, now):
        return None
    step = Repeatable(lines.run, start, returns=symptom.state[0].name, packs=False, within=WITHIN)
    told = inquest.hold(symptom.of_its_update(), finding, step)
    if inquest.found is None or told.op is None or told.code == finding.code:
        return None
    said = Evidence("what the loop does after the update, run again", str(lines))
    site = finding.site if told.site == "<loss>" else told.site
    return replace(told, phase="update", site=site, evidence=(*told.evidence, said))


def _lines(kept: Kept, model: nn.Module) -> Lines | None:
    """Those that have run since: up to the outermost loop that has come to another turn."""
    present = {each.f_code: each for each in users_frames(sys._getframe(1))}
    frames = {at: present.get(names.code) for at, names in kept.names.items()}
    turned = [i for i, each in enumerate(kept.plan.stages) if _has_turned(each, kept, frames)]
    if not turned:
        return None
    ran = kept.plan.stages[: turned[-1] + 1]
    turns = [Turn(each.tail, each.frame) for each in ran if each.tail is not None]
    for each in reversed(ran):
        frame = frames.get(each.frame)
        if each.head is not None and frame is not None:
            anew = seen(frame, (each.targets or frozenset()) | each.given)
            turns.append(Turn(each.head, each.frame, anew))
    return Lines(model, kept, turns) if turns else None


def _has_turned(stage: Stage, kept: Kept, frames: Mapping[int, FrameType | None]) -> bool:
    """Whether its loop has set anew what it sets for each turn; so of one that sets nothing.

    The innermost one has, where nobody else's loop stands between it and the step.
    """
    frame = frames.get(stage.frame)
    if stage.targets is None or frame is None:
        return False
    if not stage.targets:
        loops = (each for each in kept.plan.stages if each.targets is not None)
        return stage is next(loops) and not kept.plan.by_library
    before, now = kept.names[stage.frame].values, seen(frame, stage.targets)
    return any(_differs(before.get(name), now.get(name)) for name in stage.targets)


def _differs(before: Any, now: Any) -> bool:
    if isinstance(before, (int, str)) and isinstance(now, (int, str)):
        return before != now
    return before is not now


def _is_by_library(frame: FrameType | None) -> bool:
    """Whether a library's function that is no optimizer's calls the step."""
    while frame is not None and (kind := kind_of(frame.f_code.co_filename)) is not Kind.USER:
        own = isinstance(glimpse(frame).get("self"), Optimizer)
        if kind is Kind.LIBRARY and not own:
            return True
        frame = frame.f_back
    return False
