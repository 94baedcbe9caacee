"""One suite: a few samples, trained on under the watch until they are memorised or steps end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from nan_watch import NanWatch, PoisonedStep
from overfit.apart import Apart, apart, label_keys
from overfit.bars import MEMORISED
from overfit.blind import Blind
from overfit.curves import Accuracy, Curves, counted
from overfit.death import note_death
from overfit.drive import Drive, drive_of, rate_of
from overfit.dropout import switch_off
from overfit.facts import Facts
from overfit.heads import Evaluation, Heads
from overfit.look import Looker, kept_start
from overfit.plan import Ending, Plan
from overfit.rests import write_rests
from overfit.rules.memorised import Memorised
from overfit.rules.too_slow import TooSlow
from overfit.samples import Samples, draw
from overfit.silent import Silent, silent_parts
from probes.copying import copy_of
from probes.errors import RequestError
from probes.loop import Loop
from probes.record import Recorder
from probes.seeding import seed_everything
from probes.subject import Batch, Subject

Tell = Callable[[int, str], None]
"""Is told how many steps are done, and what to say beside them."""


def run_suite(subject: Subject, plan: Plan, folder: Path, tell: Tell) -> None:
    """The suite has run, the subject's model is trained, and `folder` holds its record.

    An exception of the user's code ends the suite and stands in the record.
    Raises RequestError where a size is larger than the data or a metric is no pair of numbers.
    """
    try:
        samples = draw(subject, plan.sizes, plan.seed)[plan.size]
        _train(subject, plan, samples, folder, tell)
    except RequestError:
        raise
    except Exception as error:
        note_death(folder, plan, error)


def _train(subject: Subject, plan: Plan, samples: Samples, folder: Path, tell: Tell) -> None:
    off = () if plan.dropout else switch_off(subject.model)
    subject, began = _changed(subject, plan), kept_start(subject.model)
    facts, blind = _early_facts(subject, samples), _blind(subject, plan, samples)
    loop = Loop(subject)
    device = next((str(each.device) for each in subject.model.parameters()), None)
    recorder = Recorder(
        folder, seed=plan.seed, device=device, settings=settings(plan, samples, off)
    )
    # a step of the user's own may clip, which shows between its backward and the optimizer's step
    own = subject.train_step is not None
    with NanWatch(loop.model, loop.optimizer, out=recorder, parameter_hooks=own) as watch:
        try:
            suite = Suite(plan, samples, loop, watch, tell, facts, blind)
            suite.run()
        finally:  # an exception or Ctrl-C leaves what was found so far
            recorder.findings(watch.judgement)
    if plan.attention:
        _write_attention(recorder, subject, samples)
    if plan.kind == "suite":
        _write_look(recorder, subject, plan, samples, began, suite.ended)
    recorder.close(watch.judgement)


def _changed(subject: Subject, plan: Plan) -> Subject:
    """The subject with the interventions of the plan."""
    from overfit.interventions import changed

    return changed(subject, plan.changed) if plan.changed else subject


def _early_facts(subject: Subject, samples: Samples) -> Facts:
    """Floors and ceilings before the first step, where the loss alone says what is memorised."""
    if not Heads(subject, samples.batches).derived:
        return Facts()
    try:
        return Looker(subject, samples.batches, {}).facts()
    except Exception:  # they are asked for again at the end, which then says why
        return Facts()


def _blind(subject: Subject, plan: Plan, samples: Samples) -> Blind | None:
    return Blind.of(subject, samples.batches) if plan.kind == "blind" else None


def _write_look(
    recorder: Recorder,
    subject: Subject,
    plan: Plan,
    samples: Samples,
    began: Mapping[str, Tensor],
    ended: Ending | None,
) -> None:
    """Floors, ceilings and the look at what did not memorise stand in the record."""
    try:
        looker = Looker(subject, samples.batches, began, plan.steps)
        recorder.note(**looker.facts().as_json())
        if ended == "steps":
            rests = None
            if plan.rests:
                rests = write_rests(recorder, subject, samples.batches[0], looker.prefixes)
            recorder.note(look=replace(looker.look(), rests=rests).as_json())
    except Exception as error:  # the suite's own result stands
        said = f"floors are not judged: {type(error).__name__}: {error}"
        recorder.note(floors_not_judged=[said])


def run_copy(subject: Subject, plan: Plan, folder: Path, tell: Tell) -> Subject:
    """As `run_suite`, on a copy of the model, seeded but for its weights; returns the trained."""
    seed_everything(plan.seed)
    trial = replace(subject, model=copy_of(subject.model))
    run_suite(trial, plan, folder, tell)
    return trial


def settings(plan: Plan, samples: Samples, off: tuple[str, ...]) -> Mapping[str, object]:
    """What the record of a suite says of it."""
    return {
        "part": plan.kind,
        **asdict(plan),
        "unit": samples.unit,
        "batches": len(samples.batches),
        "group": samples.group,
        "samples": samples.names,
        "places": [(place.batch, place.index) for place in samples.places],
        "dropout_off": off,
        "notes": samples.notes,
    }


def _write_attention(recorder: Recorder, subject: Subject, samples: Samples) -> None:
    """The trained model's attention maps lie in the record, or why there are none."""
    from probes.attention import write_attention

    try:
        write_attention(recorder, subject, subject.model, samples.batches[0])
    except Exception as error:  # the suite's own result stands, whatever a map may need
        recorder.note(no_attention=f"{type(error).__name__}: {error}")


class Suite:
    """The course of a suite while it runs; its record follows step by step."""

    def __init__(
        self,
        plan: Plan,
        samples: Samples,
        loop: Loop,
        watch: NanWatch,
        tell: Tell,
        facts: Facts = Facts(),  # noqa: B008  (frozen)
        blind: Blind | None = None,
    ) -> None:
        self.plan = plan
        self.facts = facts
        self.blind = blind
        self.ended: Ending | None = None
        self.loop = loop
        self.watch = watch
        self.tell = tell
        self.batches = samples.batches
        self.heads = Heads(loop.subject, samples.batches)
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.unread: list[Tensor] = []
        watch.recorder.column("loss", "<loss>")  # before the parts, which are seen before it
        self.looks: list[tuple[int, Evaluation]] = []
        self.in_a_row = 0
        self.labels: tuple[str, ...] | None = None
        self.apart: Apart | None = None
        self.silent: tuple[Silent, ...] = ()

    def run(self) -> None:
        """The steps are done, and the record says how they ended."""
        recorder = self.watch.recorder
        try:
            self.ended = self._steps()
            recorder.note(ended=self.ended, derived=self.heads.derived)
            recorder.note(drive=self._drive().as_json())
            if self.apart is not None:
                recorder.note(apart=asdict(self.apart))
            if self.silent:
                recorder.note(silent=[asdict(each) for each in self.silent])
        except PoisonedStep as refusal:
            found = refusal.finding
            recorder.note(derived=self.heads.derived)
            recorder.note(ended="refused", refused=found.step, said=found.message)

    def _steps(self) -> Ending:
        for step in self._numbers():
            if step % self.plan.every == 0 and self._remembered(step):
                self.tell(step, MEMORISED)
                return "memorised"
            number = step % len(self.batches)
            fed = self.batches[number] if self.blind is None else self.blind.shuffled(number, step)
            self.unread.append(self._step(fed))
            self.tell(step + 1, "")
        self._remembered(len(self.rates), last=True)
        return "steps"

    def _numbers(self) -> Iterator[int]:
        """Those of the plan's steps, and of as many again where it then is nearly memorised.

        A schedule, or a step of the user's own, may not be made for more.
        """
        steps, subject = self.plan.steps, self.loop.subject
        yield from range(steps)
        if self.plan.again and subject.schedule is None and subject.train_step is None:
            self._read_losses()
            if TooSlow().nears(self.curves()):
                yield from range(steps, 2 * steps)

    def _drive(self) -> Drive:
        optimizer, watch = self.loop.optimizer, self.watch
        return drive_of(optimizer, self.rates, len(self.rates), watch.steps, watch.scalers)

    def _step(self, batch: Batch) -> Tensor:
        layout = self.loop.subject.layout
        self.rates.append(rate_of(self.loop.optimizer))
        loss = self.watch.step(
            lambda: self.loop.step(batch, self.watch), batch=batch, layout=layout
        )
        return loss.reshape(())

    def _remembered(self, step: int, last: bool = False) -> bool:
        """Evaluates; true once the samples were memorised so many evaluations in a row."""
        self._read_losses()
        look = self.heads.evaluate()
        at = self.watch.steps  # a step of the user's own may hold several of the optimizer's
        self._record(at, look)
        self.looks.append((at, look))
        curves = self.curves()
        self.apart = self._apart() if Memorised().asks(curves, last) else None
        curves = replace(curves, apart=self.apart)
        self.tell(step, told(curves))
        held = bool(self.losses) and Memorised().holds(curves)
        self.silent = self._silent() if held and not curves.derived else ()
        held = held and not self.silent
        self.in_a_row = self.in_a_row + 1 if held else 0
        return self.in_a_row >= self.plan.in_a_row

    def _apart(self) -> Apart | None:
        """What `Curves.apart` holds; None where it cannot be found out."""
        subject = self.loop.subject
        try:
            if self.labels is None:
                self.labels = label_keys(subject, self.batches[0])
            return apart(subject, self.batches, self.labels)
        except Exception:  # the user's code may not bear other labels
            return None

    def _silent(self) -> tuple[Silent, ...]:
        """What `Curves.silent` holds; nothing where it cannot be found out."""
        try:
            return silent_parts(self.loop.subject, self.batches)
        except Exception:  # the user's parts may not run alone
            return ()

    def _read_losses(self) -> None:
        if self.unread:
            self.losses += torch.stack(self.unread).float().tolist()
            self.unread.clear()

    def _record(self, step: int, look: Evaluation) -> None:
        recorder = self.watch.recorder
        if look.counts:
            recorder.values(step, "metric", "hits", look.hits)
            recorder.values(step, "metric", "count", look.counts)
        if look.parts:
            recorder.values(step, "loss", "evaluated", look.parts)

    def curves(self) -> Curves:
        """What `read_curves` will read from the record, so far."""
        return Curves(
            name=self.plan.name,
            size=self.plan.size,
            seed=self.plan.seed,
            budget=self.plan.steps,
            unit="samples",
            steps=tuple(range(len(self.losses))),
            losses=tuple(self.losses),
            heads=self._heads(),
            passes=len(self.batches),
            floors=self.facts.floors,
            ceilings=self.facts.ceilings,
            derived=self.heads.derived,
        )

    def _heads(self) -> dict[str, Accuracy]:
        steps = tuple(step for step, _ in self.looks)
        looks = [look for _, look in self.looks]
        if not looks:
            return {}
        return counted(
            {
                name: Accuracy(
                    steps,
                    tuple(look.hits[name] for look in looks),
                    tuple(look.counts[name] for look in looks),
                )
                for name in looks[0].counts
                if all(name in look.counts for look in looks)
            }
        )


def told(curves: Curves) -> str:
    """The loss and the worst head, for the progress bar."""
    loss = f"loss {curves.losses[-1]:.3g}" if curves.losses else ""
    worst = min(curves.heads.items(), key=lambda item: item[1].last, default=None)
    return loss if worst is None else f"{loss} {worst[0]} {worst[1]}".strip()
