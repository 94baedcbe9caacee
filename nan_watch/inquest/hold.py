"""What a refused step is asked: where it was born, of what cause, and whether a patch cures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nan_watch.case.material import Case
from nan_watch.case.symptom import Symptom
from nan_watch.case.trial import Trial
from nan_watch.causes import name_cause
from nan_watch.inquest.relief import reliefs
from nan_watch.origin.find import Origin, find_origin
from probes.finding import Evidence, Finding
from probes.layout import Layout
from probes.replay import Snapshot
from probes.subject import Batch

RAISED = "replay raised"


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A step that can be run again.

    run: the loss and its backward pass, as the loop ran it; returns the loss. snapshot: what it
    started from. batch, layout: what it reads, so that keys, samples and tokens have names.
    returns: what the result of `run` is called; it is not the loss where only a part is run.
    """

    run: Callable[[], Any]
    snapshot: Snapshot
    batch: Batch = None
    layout: Layout | None = None
    returns: str = "<loss>"

    def in_its_words(self, origin: Origin) -> Origin:
        """The origin, with the symptom in the result of `run` by its name."""
        called = (self.returns if name == "<loss>" else name for name in origin.symptoms)
        return replace(origin, symptoms=tuple(called))


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

        It stays as it was where the replay raises, which is then among its evidence: the refusal
        itself must not be lost.
        """
        self.found = None
        try:
            case = self._case(symptom, step)
            if case.origin is None:
                return finding
            self.found = step, case.origin
            told = name_cause(case)
            proofs = 0 if told.confirmed is None else 1  # which stays first
            first, rest = told.evidence[:proofs], told.evidence[proofs:]
            evidence = (*first, *reliefs(case, step.layout), *rest)
            return replace(told, batch=finding.batch, evidence=evidence)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            return replace(finding, evidence=(*finding.evidence, Evidence(RAISED, what)))

    def _case(self, symptom: Symptom, step: Repeatable) -> Case:
        origin = find_origin(
            self.model,
            step.run,
            step.snapshot,
            layout=step.layout,
            batch=step.batch,
            optimizers=[self.optimizer],
            raises=symptom.raised is not None,
        )
        unfused = origin is not None and origin.kernels == "unfused"
        trial = Trial(self.model, step.run, step.snapshot, [self.optimizer], unfused, step.batch)
        return Case(symptom, origin and step.in_its_words(origin), trial, self.optimizer)
