"""What becomes of a refused step: it is replayed, as far as it is known, and leaves a capsule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.capsule.keep import Keeper
from nan_watch.case.symptom import Symptom
from nan_watch.case.trial import Trial
from nan_watch.causes.loss_scale_overflow import (
    LossScaleOverflow,
    first_product,
    overflows_half,
    unscaled,
)
from nan_watch.causes.non_finite_setting import NonFiniteSetting
from nan_watch.causes.optimizer_underflow import OptimizerUnderflow
from nan_watch.causes.poisoned_parameter import PoisonedParameter
from nan_watch.inquest.between import Between, by_lines_between
from nan_watch.inquest.captured import Captured
from nan_watch.inquest.chart import chart, write_chart
from nan_watch.inquest.compressed import Unreduced, as_reduced, hook_of, unreduced
from nan_watch.inquest.copies import norms
from nan_watch.inquest.gradient_code import by_gradient_code
from nan_watch.inquest.hold import RAISED, Inquest, Repeatable
from nan_watch.inquest.kept_update import KeptUpdates, by_update
from nan_watch.inquest.models_part import Part, explain, lacks
from nan_watch.inquest.own_lines import by_own_lines
from nan_watch.inquest.spread import in_one_process
from nan_watch.state import Poisoned, poisoned
from probes.bus import Bus
from probes.finding import Evidence, Finding, Verdict
from probes.patch import Edited
from probes.record import Recorder
from probes.whole import gathered, is_split, made_whole
from probes.wrapped import alone, is_compiled, optimized

OF_UPDATES = (PoisonedParameter.code, OptimizerUnderflow.code, NonFiniteSetting.code)
GATHERED = 3  # refused steps for which a sharded model is made whole


class Replays:
    """Knows the step at work: one that was handed over whole, or else the model's calls.

    capsules: refused steps that leave one, at most. wrappers: what stands around the model. ends:
    whether the loop goes no further than its first refused step.
    `step` is the step that was handed over; `running` whether a replay is at work.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        capsules: int,
        wrappers: Sequence[nn.Module] = (),
        *,
        ends: bool = False,
    ) -> None:
        self._wrappers = wrappers
        self._ends = ends
        self.step: Repeatable | None = None
        self.running = False
        self.captured = Captured(model)
        self._inquest = Inquest(model, optimizer)
        self._keeper = Keeper(model, optimizer, capsules)
        self._gathered = 0
        self._split = False
        self.updates = KeptUpdates(model)
        self.between = Between(model, self.captured.marks)
        self._unreduced: Unreduced | None = None

    @contextmanager
    def of(self, step: Repeatable) -> Iterator[None]:
        """The step is the one at work; what its batch tells need not be kept of the calls."""
        self.step, self.captured.on = step, step.batch is None
        try:
            yield
        finally:
            self.step, self.captured.on = None, True
            self.captured.forget()

    def stepped(self, after: Callable[[], None]) -> None:
        """The optimizer has taken its step; `after` is called."""
        after()
        if self._ends:
            self.between.after()

    def late(self, symptom: Symptom, finding: Finding, bus: Bus) -> Finding:
        """The finding of what the last update has left, as its replay tells it where it can."""
        with self.at_work(bus):
            return by_update(self.updates.newest, self._inquest, symptom, finding) or finding

    def forget(self) -> None:
        """Nothing is held of the newest update any more."""
        self.updates.newest = self.between.newest = None

    def waiting(self) -> list[Tensor]:
        """What is to be read: norms of the parameters that an update may have poisoned."""
        kept = [each for each in (self.updates.newest, self.between.newest) if each is not None]
        written = {id(tensor): tensor for each in kept for tensor in each.written}
        return norms(list(written.values()))

    def gather(self, *, mine: bool) -> None:
        """A sharded model can be made whole in this process, where the refusal is its own.

        All processes call it together; after a few refusals it is not worth its time any more.
        """
        if self.captured.needs_others and self._gathered < GATHERED:
            self._gathered += 1
            self._split = is_split(self.captured.model)
            with suppress(RuntimeError):  # memory is short, or a process is gone
                self.captured.whole = gathered(self.captured.model, keep=mine) or []

    def tell(self, symptom: Symptom, finding: Finding, bus: Bus, recorder: Recorder) -> Finding:
        """The finding as the step's replay tells it, and where its capsule is, if it failed."""
        with self.at_work(bus):
            named = self._left_over(symptom, finding)
            if named is not None:
                return named
            if self.step is not None and not self.captured.is_tied:
                told = self._handed_over(symptom, finding, self.step)
            else:
                told = self._of_a_loop(symptom, finding)
            told = self._written(symptom, told) or told
            told = in_one_process(told, self.captured, symptom, split=self._split)
            told = as_reduced(told, self._unreduced, symptom, self.captured.marks.end)
            told = self._compilers(self._charted(told, recorder))
            failed = finding.verdict is Verdict.FAIL
            packs = self._inquest.found is None or self._inquest.found[0].packs
            return self._kept(symptom, told, recorder) if failed and packs else told

    def at_fault(self, odd: Sequence[Poisoned], bus: Bus) -> bool:
        """Whether the gradients are this process's own doing, where a hook has reduced them.

        Every process asks itself, at the same step.
        """
        self._unreduced = None
        hook = hook_of(self.captured.model) if odd else None
        if hook is None or self.captured.is_tied:
            return False
        step = self.step
        if step is None and lacks(self.captured) is None:
            step = Part.known(self.captured).repeatable()
        if step is not None:
            with self.at_work(bus):
                own = self.captured.model, step, self._inquest.optimizer
                self._unreduced = unreduced(hook, *own, odd)
        return self._unreduced is not None and self._unreduced.at_fault

    def _left_over(self, symptom: Symptom, finding: Finding) -> Finding | None:
        """As the update tells it that left parameters which are not finite; None where none did."""
        if finding.phase != "update" or finding.code not in OF_UPDATES:
            return None
        if self._ends and finding.code == PoisonedParameter.code:
            named = by_lines_between(self.between.newest, self._inquest, symptom, finding)
            if named is not None:
                return named
        return by_update(self.updates.newest, self._inquest, symptom, finding)

    def _written(self, symptom: Symptom, told: Finding) -> Finding | None:
        """As the lines tell it that wrote a parameter which no step trains, where they did."""
        if not self._ends or told.code != PoisonedParameter.code or told.phase is not None:
            return None
        named = dict(self.captured.model.named_parameters())
        if told.site not in named or told.site in symptom.loaded:
            return None
        state = poisoned({told.site: named[told.site]}, infinity_has_a_meaning=False)
        kept, found = self.between.newest, self._inquest.found
        sick = replace(symptom, state=state)
        written = by_lines_between(kept, self._inquest, sick, told) if state else None
        if written is None:
            self._inquest.found = found
        return written

    def _handed_over(self, symptom: Symptom, finding: Finding, step: Repeatable) -> Finding:
        """As the step tells it; or the model's calls, where it does something else when run again.

        One that takes its batch from an iterator reads the next one then.
        """
        told = self._inquest.hold(symptom, finding, step)
        if self._inquest.found is None and self._ends and symptom.grads:
            told = by_gradient_code(self._inquest, symptom, finding, step) or told
        if self._inquest.found is not None or lacks(self.captured) is not None:
            return told
        part = explain(self.captured, self._inquest, symptom, finding)
        if self._inquest.found is None:
            return told
        said = Evidence(
            "the step that was handed over, run again",
            "does something else: let it take its batch from outside, and not from an iterator",
        )
        return replace(part, evidence=(*part.evidence, said))

    def _of_a_loop(self, symptom: Symptom, finding: Finding) -> Finding:
        """As the model's part tells it; where it does not, as the loop's own lines do.

        Nor does the part show what made the gradients large that a half cannot hold: a loss scale.
        The lines are run again only where the loop goes no further: they may be heard outside.
        """
        told = explain(self.captured, self._inquest, symptom, finding)
        found = self._inquest.found
        if not self._ends or (found is not None and not overflows_half(found[1])):
            return told
        named = by_own_lines(self.captured, self._inquest, symptom, finding)
        mine = self._inquest.found
        hands_on = mine is not None and mine[1].hands_on  # what is known by sight stands before it
        if named is not None and (not hands_on if found is None else _is_scale(named)):
            return named
        self._inquest.found = found
        return told

    def overflows(self, bus: Bus, scale: float) -> bool:
        """Whether the step at work is finite without its loss scale; so where nobody can tell."""
        self.captured.scale = scale
        step, under = self.step, [Edited(first_product(), unscaled)]
        with self.at_work(bus):
            if step is None:
                if lacks(self.captured) is not None:
                    return True
                step, under = Part.known(self.captured).repeatable(), []
            trial = Trial(self.captured.model, step.run, step.snapshot, [self._inquest.optimizer])
            return trial.is_finite(lambda: under)

    def _compilers(self, told: Finding) -> Finding:
        """The finding, with what it means that the same step is finite without the compiler."""
        model = self.captured.model
        compiled = any(map(is_compiled, (*self._wrappers, *model.modules(), *optimized(model))))
        ran = self.step is not None or lacks(self.captured) is None
        raised = any(each.what == RAISED for each in told.evidence)
        if not compiled or not ran or raised or told.op is not None or self._inquest.found:
            return told
        said = Evidence("the same step, replayed without torch.compile", "finite")
        return replace(
            told,
            message=f"{told.message.removesuffix('.')}; only the compiled code shows it.",
            fix=f"{told.fix.removesuffix('.')}; run without `torch.compile` to go on, and look at "
            "the operators of the module that is named for one that its backend gets wrong.",
            evidence=(*told.evidence, said),
        )

    def _charted(self, told: Finding, recorder: Recorder) -> Finding:
        """The graph of the step lies in the record, or the finding says why it does not."""
        if self._inquest.found is None:
            return told
        step, origin = self._inquest.found
        try:
            graph = chart(self._inquest.model, step, origin, [self._inquest.optimizer])
            if graph is not None:
                write_chart(recorder, told, graph)
        except Exception as error:  # the refusal itself must not be lost
            what = f"{type(error).__name__}: {error}"
            return replace(told, evidence=(*told.evidence, Evidence("no graph", what)))
        return told

    @contextmanager
    def at_work(self, bus: Bus) -> Iterator[None]:
        """What runs is a replay, which is not watched."""
        self.running, listening = True, bus.listening
        bus.listening = False
        try:
            with alone(self.captured.model), made_whole(self.captured.model, self.captured.whole):
                yield
        finally:
            self.running, bus.listening = False, listening

    def _kept(self, symptom: Symptom, told: Finding, recorder: Recorder) -> Finding:
        keep, step = self._keeper.keep, self.step
        if step is not None and step.batch is not None:
            return keep(recorder, symptom, told, step.batch, step.snapshot, ())
        calls = () if lacks(self.captured) else self.captured.known
        calls = () if any(call.of is not None for call in calls) else calls
        return keep(recorder, symptom, told, None, None, calls)


def _is_scale(named: Finding) -> bool:
    return named.code == LossScaleOverflow.code
