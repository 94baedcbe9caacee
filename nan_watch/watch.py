"""The watch around a training loop that is not ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.buffers import Buffers
from nan_watch.capsule.keep import MOST
from nan_watch.case.symptom import Symptom, readings_of
from nan_watch.flags import Doubles, Flags, Sightings, read
from nan_watch.grad_norms import GradNorms, HookedNorms
from nan_watch.guard import Guard, PoisonedStep, Refusals, real_optimizer
from nan_watch.inquest.replays import Replays
from nan_watch.inquest.telling import Telling
from nan_watch.joins import Joins
from nan_watch.out_of_memory.exhaustion import Exhaustions
from nan_watch.own_writes import OwnWrites
from nan_watch.page import ended, opened_record, render_or_warn
from nan_watch.parameters import Parameters
from nan_watch.ranks import TIMEOUT, Ranks
from nan_watch.readings import Readings
from nan_watch.roots import Roots
from nan_watch.rules import RULES as HEALTH
from nan_watch.sampled.looks import Sampled
from nan_watch.scaling import Scalers
from nan_watch.stages import Stages
from nan_watch.state import Poisoned, odd, poisoned
from nan_watch.steppers import Steppers
from nan_watch.stepping import stepping, tried
from nan_watch.updates import Updates
from probes.bus import Bus, Observer
from probes.errors import RequestError, demand_one_of
from probes.finding import Finding, Judgement, judge
from probes.layout import Layout
from probes.modules import watched_modules
from probes.raised import said
from probes.record import Recorder
from probes.replay import Snapshots, with_inner
from probes.run import Run
from probes.subject import Batch
from probes.wrapped import innermost, wrappers_of

Tier = Literal["sentinel", "sites"]
OnPoison = Literal["raise", "skip", "allow"]
Result = TypeVar("Result")


class NanWatch:
    """Watches a loop: records every step, and keeps what is not finite out of the weights.

    optimizer: the one that is stepped, or all that are: they are guarded as one.
    tier: `sites` looks at every output and its gradient; `sentinel` at loss and gradients only.
    on_poison: `raise` raises PoisonedStep before the optimizer writes; `skip` drops the step and
    goes on, and raises after ten in a row; `allow` lets it through.
    out: the run folder, by default `runs/Nov22_15-59-28_host`; or a Recorder that is open, which
    is then left open and gets no page.
    parameter_hooks: gradient norms before clipping are known without `watch.clip_grad_norm_`.
    start: the number of the first step. capsules: refused steps that leave one, at most.
    timeout: seconds that a process waits for those that it trains together with.

    `findings` is what was found so far, worst first; `run` reads the run folder; `steps` is the
    number of steps that the optimizer attempted, and `start`; `loaded` are the parameters that
    were not finite before the first; `scalers.skipped` the newest steps that a GradScaler skipped;
    `loss` is the newest that is known; `batch` is the index of the batch at work, for the finding,
    where the loop sets it.
    """

    recorder: Recorder

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        tier: Tier = "sites",
        on_poison: OnPoison = "raise",
        out: Path | str | Recorder | None = None,
        *,
        parameter_hooks: bool = False,
        start: int = 0,
        capsules: int = MOST,
        timeout: float = TIMEOUT,
    ) -> None:
        demand_one_of("tier", tier, get_args(Tier))
        demand_one_of("on_poison", on_poison, get_args(OnPoison))
        optimizer = real_optimizer(optimizer)
        self._wrappers = wrappers_of(model)
        self.model = model = innermost(model)
        self._ranks = Ranks(timeout)
        self.tier, self.on_poison, self._out = tier, on_poison, out
        self.steps = self._start = self._before = start  # `_before`: when the one at work began
        self.loss: float | None = None
        self.batch: int | None = None
        self._flags, self._hooked = Flags(), HookedNorms()
        self._norms, self._updates = GradNorms(model, optimizer), Updates()
        self._losses, self._late_losses = list[Tensor](), list[Tensor]()
        self._told = self._at_once = False
        self._writes = OwnWrites(lambda: self._norms.parameters)
        self._snapshots = Snapshots(model)
        goes_on, once = on_poison == "allow", on_poison == "raise"
        self._replays = Replays(model, optimizer, capsules, self._wrappers, ends=once)
        self._exhaustions = Exhaustions(model, optimizer)
        self._last: Sightings | None = None
        self._refused, self._health = Refusals(on_poison), Judgement()
        self._sampled = Sampled(model, on=tier == "sites")
        self._telling = Telling(optimizer, self._replays, self._sampled.edges, goes_on=goes_on)
        told, folder = self._telling.heard, lambda: str(self.recorder.folder)
        self._joins = Joins(self._ranks, self._refused, told, folder)
        sites, hooked = tier == "sites", [self._hooked] if parameter_hooks else []
        observers: list[Observer] = [self._flags] if sites else []
        observers += [*self._sampled.observers, *hooked]
        calls = self._replays.captured if sites else None
        enter = calls.marks.enter if calls is not None else None
        self._bus = Bus(model, observers, calls, self._wrappers, entered=enter)
        self._sampled.units.sites = self._bus.sites
        asleep = lambda: self._replays.running or self._joins.stands_in()  # noqa: E731
        after, again = partial(self._replays.stepped, self._updates.after), partial(tried, self)
        self._guard = Guard(optimizer, self._before_step, after, asleep, again)
        overflows, watched = partial(self._replays.overflows, self._bus), with_inner([optimizer])
        self.scalers = Scalers(watched, lambda: self._norms.named, self._before_step, overflows)
        self._steppers = Steppers(model, watched, asleep)
        self._roots = Roots(lambda: self._norms.parameters, self._replays.captured, asleep)
        self._stages = Stages(self._ranks, self._bus, self._replays)
        hooks = (self._bus, self._guard, self.scalers, self._steppers, self._roots)
        self._hooks = (self._stages, *hooks, self._joins)
        self._root = next(name for name, module in watched_modules(model) if module is model)

    def __enter__(self) -> Self:
        """Every hook is on and the run folder is there; or neither, where one could not be."""
        self._guard.demand_free()
        with ExitStack() as opened:
            self._ranks.begin(self.model, self._norms.named)
            self._joins.demand_none()
            self.recorder = opened_record(self, self._out, self._ranks)
            if self.recorder is not self._out:
                opened.callback(self.recorder.close)
            self._parameters = Parameters(self.model, self._guard.optimizer)
            self.recorder.note(parameters=self._parameters.facts())
            self._readings = Readings(self.recorder)
            self._spoilt = bool(self._poisoned_parameters())
            self._buffers = Buffers(self.model, each_step=self.tier == "sites")
            self.loaded = tuple(each.name for each in poisoned(self._state()))
            frozen = self._parameters.facts()["frozen"]
            self._telling.begin(self._buffers, frozen, self._bus, self.recorder)
            for each in self._hooks:
                opened.enter_context(each)
            opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Our hooks are off, the record is closed, and the report made where there is one to."""
        for each in reversed(self._hooks):
            each.__exit__(kind, error, trace)
        if error is not None:
            self._exhaustions.note(self.recorder, error, self.steps, None)
        if isinstance(error, Exception) and not isinstance(error, (PoisonedStep, RequestError)):
            self._explain(error)
        try:
            if error is None or isinstance(error, (PoisonedStep, KeyboardInterrupt)):
                self._read_late()
            self._steppers.tell(self)
        finally:
            self._replays.forget()
            self._close(error)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far, worst first."""
        return self.judgement.findings

    @property
    def judgement(self) -> Judgement:
        """What causes say, and, once a run folder of its own is closed, the rules of health."""
        return self._telling.judgement(stepped=self.steps > self._start) + self._health

    @property
    def run(self) -> Run:
        """The run folder, as far as it is written."""
        return Run(self.recorder.folder)

    def step(
        self,
        fn: Callable[[], Result],
        *,
        batch: Batch = None,
        layout: Layout | None = None,
    ) -> Result:
        """A whole step of the user's own has run; the loss that it returns is in the record.

        A step that is refused is replayed and its origin named. batch, layout: what the
        step reads, so that keys, samples and tokens have names.
        """
        with self.stepping(fn, batch=batch, layout=layout):
            result = fn()
            self.note_loss(result)
        return result

    def stepping(
        self,
        again: Callable[[], Any],
        *,
        batch: Batch = None,
        layout: Layout | None = None,
        at_once: bool = False,
    ) -> AbstractContextManager[None]:
        """Inside stands a whole step, as in `step`, which `again` runs once more.

        at_once: a refusal is explained where it is raised, and not when the step has unwound.
        """
        return stepping(self, again, batch, layout, at_once)

    def note_loss(self, loss: object) -> None:
        """The step's loss, or that of one of its parts, is in the record where it is a number."""
        if isinstance(loss, Tensor) and loss.numel() == 1 and not self._told:
            waiting = self._late_losses if self.steps > self._before else self._losses
            waiting.append(loss.detach().reshape(()))

    def _explain(self, error: Exception) -> Finding | None:
        """What led to the exception of a step, where that is a number that is not finite."""
        symptom = self._symptom(self.steps, None, Sightings.none(), (), raised=said(error))
        return self._telling.explain(error, symptom, self.batch)

    def retell(self, finding: Finding, told: Finding) -> None:
        """What was found is told in other words, as after a run from the start."""
        self._telling.stories.rename(finding, told)

    def backward(self, loss: Tensor, **how: Any) -> None:
        """The loss's backward has run, with torch's own arguments; its value is in the record."""
        if not self._replays.running:
            self._told = True
            self._replays.captured.loss = loss.grad_fn
            if loss.numel() == 1:
                self._losses.append(loss.detach().reshape(()))
        loss.backward(**how)

    def clip_grad_norm_(
        self, max_norm: float, parameters: Iterable[Tensor] | None = None
    ) -> Tensor:
        """The gradients are clipped as by torch's clip_grad_norm_; returns their norm before, ().

        parameters: those that are clipped together; by default all of the model's.
        """
        if self._replays.running:
            chosen = self.model.parameters() if parameters is None else parameters
            return torch.nn.utils.clip_grad_norm_(chosen, max_norm)
        return self._norms.clip(max_norm, parameters)

    def _state(self) -> Mapping[str, Tensor]:
        """Parameters and buffers as they were before the step, as far as that is known."""
        step = self._replays.step
        fresh = set() if step is None else step.snapshot.clean()  # which the step itself poisoned
        named = {name: each for name, each in self._norms.named.items() if id(each) not in fresh}
        return {**named, **self._buffers.named(self._buffers.before)}

    def _before_step(self) -> None:
        """The step is on disk, and stopped where it is poisoned."""
        self._writes.end()
        self.scalers.seen = True
        groups = [self._losses, self._norms.waiting(), self._flags.waiting, self._hooked.waiting]
        groups += [self._sampled.waiting(), self._buffers.waiting(), self._roots.waiting]
        groups += [self._bus.traced.waiting(), self._ranks.waiting()]
        late, (losses, norms, flags, hooked, few, buffers, roots, traced, sums) = self._read(groups)
        step, self.steps = self.steps, self.steps + 1
        loss = sum(losses.tolist()) / len(losses) if len(losses) else None
        taken = self._norms.take(norms, self._guard.grad_scale())
        taken = self._ranks.whole(taken, self._norms.parameters)
        sightings = self._last = self._flags.take(flags, traced, self._bus)
        before = self._hooked.take(hooked, lambda number: self._bus.sites[number].name)
        self._losses, rows = [], self._sampled.rows(few, step, self._readings)
        rows |= self._readings.sightings(sightings, self._bus.sites, self.scalers.scale)
        rows |= self._readings.norms(taken, self._norms.names)
        rows |= self._readings.one("param_grad", "norm_before_clip", self.scalers.unscaled(before))
        if loss is not None:
            self.loss = loss
            rows |= self._readings.one("loss", "value", {"<loss>": loss})
        self._readings.write(step, rows)
        grads = self._norms.poisoned(taken)
        fresh, first = self._buffers.take(buffers), step == self._start
        if excused := self.scalers.excuse(step, grads, self._guard.is_skipped_by_scaler()):
            grads = ()
        found = self._roots.take(roots, excused=excused, sure=bool(grads or self._replays.step))
        loss = loss if found is None else found  # one of several may be odd
        here = bool(grads or odd(loss) or late or (first and self._spoilt))
        begins = here and self._stages.begins(odd(loss) or late, sightings, grads)
        rank = self._ranks.agree(step, here, begins, sums, taken.seen)
        try:
            if rank is not None:
                self._stop(self._symptom(step, loss, sightings, grads, fresh), rank)
            else:
                self._refused.end()
            if rank is None and (fresh or (first and self.loaded)):
                self._remark(self._symptom(step, loss, sightings, (), fresh))
        finally:
            if rank is None or not self._replays.step:  # else its capsule is written when it ended
                self._replays.captured.forget()
        if not self.scalers.skipping:
            self._updates.before(self._norms.named, self._norms.held)
            self._replays.updates.before(self._guard.stepping, taken.seen, bare=self._guard.bare)

    def _read(self, groups: list[list[Tensor]]) -> tuple[bool, list[Doubles]]:
        """The groups' numbers, and whether a parameter is poisoned by now; one read for all."""
        first = [self._updates.waiting, self._late_losses, self._replays.waiting()]
        updates, losses, after, *numbers = read([*first, *groups])
        step, self._late_losses = self.steps - 1, []
        rows = self._readings.one("update", "ratio", self._updates.take(updates.tolist()))
        if len(losses):
            self.loss = float(losses.mean())
            rows |= self._readings.one("loss", "value", {"<loss>": self.loss})
        self._readings.late(step, rows)
        if len(losses) and odd(self.loss) and not self._refused.count and self._last is not None:
            self._telling.tell(self._symptom(step, self.loss, self._last, ()), self.batch)
            self._telling.news = None  # its step is over, and the one at work is another
        # a norm that is not finite is only a reason to look: finite numbers can overflow it
        alarm = not np.isfinite(updates).all() or not all(map(math.isfinite, after))
        return alarm and bool(self._poisoned_parameters()), numbers

    def _poisoned_parameters(self) -> tuple[Poisoned, ...]:
        named = self._norms.named.items()
        return poisoned({name: each for name, each in named if each.requires_grad})

    def _stop(self, symptom: Symptom, rank: int) -> None:
        """What is known of the step is a finding, and the step is refused as the user asked."""
        self._replays.gather(mine=rank == self._ranks.number)
        finding = self._ranks.shared(rank, partial(self._told_of, symptom))
        if rank != self._ranks.number:
            self._telling.heard(finding)
        self._readings.forget_newest()
        self._joins.let_go(ends=(ends := self._refused.add()))
        if ends:
            raise PoisonedStep(finding, str(self.recorder.folder))
        if self.on_poison == "skip":
            self._guard.refuse()

    def _told_of(self, symptom: Symptom) -> Finding:
        finding = self._telling.tell(symptom, self.batch)
        ended = self._at_once or self._ranks.several or not self._replays.step
        if self.on_poison == "allow" or ended:  # else once it has ended
            finding = self._telling.name(finding)
        told = self._ranks.named(finding)
        self._telling.stories.rename(finding, told)
        return told

    def _remark(self, symptom: Symptom) -> None:
        """A buffer that is NaN now is told of, and the step goes on: nothing has read it yet."""
        found = self._telling.tell(symptom, self.batch)
        if not self._replays.step:  # else once it has ended
            self._telling.name(found)

    def _symptom(
        self,
        step: int,
        loss: float | None,
        sightings: Sightings,
        grads: tuple[Poisoned, ...],
        fresh: Sequence[str] = (),
        raised: str | None = None,
    ) -> Symptom:
        return Symptom(
            step,
            self.tier,
            loss,
            *readings_of(sightings, self._bus.sites),
            self._root,
            grads,
            poisoned(self._state()),
            poisoned(self._buffers.named(fresh), infinity_has_a_meaning=False),
            self.loaded,
            self._readings,
            raised,
        )

    def _read_late(self) -> None:
        """What the last step left to be read is in the record."""
        if self._read([])[0]:
            symptom = self._symptom(self.steps, None, Sightings.none(), ())
            self._telling.tell_late(symptom, self.batch, told=self._refused.count > 0)

    def _close(self, error: BaseException | None) -> None:
        if self.recorder is self._out:
            return
        whole = ended(self.recorder, error, self._ranks)
        self._health = judge(HEALTH, self.run)
        self.recorder.close(self.judgement, complete=whole)
        if self.judgement.findings and self._ranks.number == 0:  # one page for all
            render_or_warn(self.recorder.folder)
