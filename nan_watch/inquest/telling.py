"""What the watch says of a symptom: at first sight, and once its step was replayed."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from torch.optim import Optimizer

from nan_watch.buffers import Buffers
from nan_watch.case.material import Case
from nan_watch.case.symptom import Symptom
from nan_watch.causes import RULES as CAUSES
from nan_watch.causes import name_cause
from nan_watch.inquest.aftermath import aftermath
from nan_watch.inquest.replays import OF_UPDATES, Replays
from nan_watch.inquest.stories import Stories
from nan_watch.inquest.trends import with_trends
from nan_watch.sampled.edges import Edges
from probes.bus import Bus
from probes.finding import Evidence, Finding, Judgement, NotJudged
from probes.raised import is_out_of_memory
from probes.record import Recorder

NO_STEP = "the optimizer that is watched took no step"
NO_NUMBER = (LookupError, TypeError, AttributeError, NameError, OSError, ImportError)
"""Exceptions that no number leads to."""


class Telling:
    """Tells each story once. `news` is the newest symptom whose finding was new.

    goes_on: whether poisoned steps are let through, so that later ones are the first's own.
    """

    def __init__(
        self, optimizer: Optimizer, replays: Replays, edges: Edges, *, goes_on: bool
    ) -> None:
        self._optimizer = optimizer
        self.stories = Stories()
        self.news: tuple[Symptom, Finding] | None = None
        self._replays = replays
        self._edges = edges
        self._goes_on = goes_on

    def begin(
        self, buffers: Buffers, frozen: Collection[str], bus: Bus, recorder: Recorder
    ) -> None:
        """The watch begins; parameters of these names are not trained."""
        self._buffers, self._frozen = buffers, set(frozen)
        self._bus, self._recorder = bus, recorder

    def judgement(self, *, stepped: bool) -> Judgement:
        """What causes say. stepped: whether there was a step to be judged."""
        found, codes = self.stories.findings, tuple(rule.code for rule in CAUSES)
        unseen = tuple(NotJudged(code, NO_STEP) for code in codes if not stepped)
        passed = () if found or unseen else codes
        return Judgement(found, () if found else unseen, passed)

    def tell(self, symptom: Symptom, batch: int | None) -> Finding:
        """The finding at first sight."""
        found = self._weighed(symptom, replace(name_cause(self._case(symptom)), batch=batch))
        if self.stories.tell(found, goes_on=self._goes_on):
            self.news = symptom, found
        elif self._goes_on:
            self.stories.go_on(aftermath(symptom, self._optimizer))
        return found

    def heard(self, finding: Finding) -> None:
        """What another rank found of a step is told."""
        self.stories.tell(finding, goes_on=self._goes_on)

    def explain(self, error: Exception, symptom: Symptom, batch: int | None) -> Finding | None:
        """The finding of what led to the exception, where that is a number that is not finite."""
        if isinstance(error, NO_NUMBER) or is_out_of_memory(error):
            return None
        sight = replace(name_cause(self._case(symptom)), batch=batch)
        told = self._replays.tell(symptom, sight, self._bus, self._recorder)
        if told.op is None:
            return None
        said = Evidence("the step raised", symptom.raised, step=symptom.step)
        told = replace(told, evidence=(said, *told.evidence))
        self.stories.tell(told)
        return told

    def tell_late(self, symptom: Symptom, batch: int | None, *, told: bool) -> None:
        """What the last step left is told. told: whether the step itself was poisoned already."""
        if not told:
            found = self.tell(symptom, batch)
            if found.code in OF_UPDATES:
                named = self._replays.late(symptom, found, self._bus)
                self.stories.rename(found, self._weighed(symptom, named))
        elif self._goes_on:
            self.stories.go_on(aftermath(symptom, self._optimizer))

    def name(self, finding: Finding) -> Finding:
        """The finding as the replay of its step tells it; as it was where it was told before.

        Of a plain loop's step, the model's part is replayed.
        """
        if self.news is None or self.news[1] is not finding:
            return finding
        symptom, self.news = self.news[0], None
        told = self._replays.tell(symptom, finding, self._bus, self._recorder)
        told = self._weighed(symptom, told)
        self.stories.rename(finding, told)
        return told

    def _case(self, symptom: Symptom) -> Case:
        return Case(symptom, optimizer=self._optimizer)

    def _weighed(self, symptom: Symptom, found: Finding) -> Finding:
        """With its trend; a remark where nothing trained is sick, or the blamed buffer's maker."""
        told = with_trends(found, symptom, self._edges)
        loss_is_odd = symptom.loss is not None and not math.isfinite(symptom.loss)
        names = [each.name for each in (*symptom.fresh, *symptom.state)]
        trained = set(names) - self._buffers.before - self._frozen - {e.name for e in symptom.fresh}
        if loss_is_odd or symptom.grads or trained or not names:
            return self._buffers.culprit(told)
        return self._buffers.remark(told, names)
