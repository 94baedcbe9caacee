"""What a refused step is asked: where it was born, of what cause, and whether a patch cures it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nan_watch.case.material import Case
from nan_watch.case.symptom import Symptom
from nan_watch.case.trial import Trial
from nan_watch.causes import name_cause
from nan_watch.inquest.relief import reliefs
from nan_watch.inquest.second import with_second
from nan_watch.origin.find import Origin, Under, find_origin, until_it_raises
from probes.finding import Evidence, Finding
from probes.layout import Layout
from probes.replay import Snapshot
from probes.subject import Batch

RAISED = "replay raised"
LOSS = "<loss>"
UNTIL = "code between the backward pass and the update"


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A step that can be run again.

    run: the loss and its backward pass, as the loop ran it; returns the loss. snapshot: what it
    started from. batch, layout: what it reads, so that keys, samples and tokens have names.
    returns: what the result of `run` is called; it is not the loss where only a part is run.
    rows: what has a row for each sample, where that is more than the batch. packs: whether a
    capsule can hold it. within: what it is a part of, in words, where it is no pass. until: it and
    what the loop does to its gradients, up to the update, where `run` is not all of that.
    """

    run: Callable[[], Any]
    snapshot: Snapshot
    batch: Batch = None
    layout: Layout | None = None
    returns: str = LOSS
    rows: Batch = None
    packs: bool = True
    within: str | None = None
    until: Callable[[], Any] | None = None

    @property
    def words(self) -> str:
        """What is run."""
        return "the step" if self.returns == LOSS else "the model's part of the step"

    def in_its_words(self, origin: Origin) -> Origin:
        """The origin, with the symptom in the result of `run` by its name."""
        called = (self.returns if name == LOSS else name for name in origin.symptoms)
        return replace(origin, symptoms=tuple(called), within=self.within)


class Inquest:
    """Replays refused steps of one model; its optimizer is held back meanwhile.

    `found` is the newest step whose origin was found, with it.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model = model
        self.optimizer = optimizer
        self.found: tuple[Repeatable, Origin] | None = None

    def hold(self, symptom: Symptom, finding: Finding, step: Repeatable) -> Finding:
        """The finding with the cause that the step's replay shows.

        Where the replay raises, which is then among its evidence, that is the cause of what it had
        met before; or it stays as it was: the refusal itself must not be lost.
        """
        self.found = None
        try:
            return self._told(finding, self._case(symptom, step), step)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
        cut = replace(step, run=until_it_raises(step.run))
        told = finding
        with suppress(Exception):
            told = self._told(finding, self._case(symptom, cut, whole=False), cut)
        return replace(told, evidence=(*told.evidence, Evidence(RAISED, what)))

    def _told(self, finding: Finding, case: Case, step: Repeatable) -> Finding:
        if case.origin is None:
            return finding
        born = partial(self._origin, case.symptom, step)
        told = _of_gradients(with_second(name_cause(case), case, born), finding, case)
        proofs = 0 if told.confirmed is None else 1  # which stays first
        rows = step.batch if step.rows is None else step.rows
        first, rest = told.evidence[:proofs], told.evidence[proofs:]
        evidence = (*first, *reliefs(case, rows, step.layout, step.words), *rest)
        self.found = step, case.origin
        return replace(told, batch=finding.batch, evidence=evidence)

    def _case(self, symptom: Symptom, step: Repeatable, whole: bool = True) -> Case:
        """whole: whether a patch can be tried: not where what it cures may raise as before."""
        origin = self._origin(symptom, step)
        unfused = origin is not None and origin.kernels == "unfused"
        trial = Trial(self.model, step.run, step.snapshot, [self.optimizer], unfused, step.batch)
        return Case(symptom, origin, trial if whole else None, self.optimizer)

    def _origin(self, symptom: Symptom, step: Repeatable, under: Under = tuple) -> Origin | None:
        origin = find_origin(
            self.model,
            step.run,
            step.snapshot,
            layout=step.layout,
            batch=step.batch,
            optimizers=[self.optimizer],
            raises=symptom.raised is not None,
            under=under,
        )
        told = origin and step.in_its_words(origin)
        if told is not None and told.within is None and told.is_of_gradients and symptom.grads:
            told = replace(told, within=UNTIL)
        return told


def _of_gradients(told: Finding, finding: Finding, case: Case) -> Finding:
    """The finding, whose place is the gradient that was seen first, where code wrote that."""
    origin, first = case.origin, finding.site in {each.name for each in case.symptom.grads}
    if origin is None or origin.within != UNTIL or not first:
        return told
    return replace(told, site=finding.site, phase=finding.phase)
