"""A head that is scored against its twin's labels, while nobody reads those it is called by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from probes.experiment import Experiment
from probes.modules import every_module
from probes.reading.effects import is_unread
from probes.scoring.asked_twice import are_apart, keys_of_calls
from probes.scoring.calls import Call
from probes.scoring.crosswise import named_as
from probes.scoring.heads import asked, make, reads_the_same, same


@dataclass(frozen=True, slots=True)
class MisaskedHead:
    """The head, what it is scored against, what it is called by; the twin; the line of the loss."""

    head: str
    key: str
    unread: str
    twin: str
    source: str | None


def misasked_head(experiment: Experiment) -> MisaskedHead | None:
    """The first one. Both heads read the same, and each is called as one of the keys alone.

    Keys must be of one kind, and not mostly the same. Raises ExperimentError where the loss does.
    """
    if "misasked_head" not in experiment.memo:
        experiment.memo["misasked_head"] = next(_misasked(experiment), None)
    found: MisaskedHead | None = experiment.memo["misasked_head"]
    return found


def _misasked(experiment: Experiment) -> Iterator[MisaskedHead]:
    model, known = experiment.subject.model, experiment.targets
    modules = dict(every_module(model))
    for key, unread in product(known, [each for each in experiment.tensors if each not in known]):
        own, others = (
            named_as(one, two, set(modules)) for one, two in ((unread, key), (key, unread))
        )
        if not own or not others or not are_apart(experiment, key, unread):
            continue
        if not is_unread(experiment, unread):
            continue
        seen = asked(experiment, experiment.batch)
        keys = keys_of_calls(experiment, seen)
        for head, twin in product(
            sorted(own & seen.seen.keys()), sorted(others & seen.seen.keys())
        ):
            if make(modules[head]) != make(modules[twin]) or make(modules[head])[1] == ():
                continue
            for i, j in product(seen.asks(head), seen.asks(twin)):
                one, two = seen.calls[i], seen.calls[j]
                alike = keys[i] == keys[j] == {key} and same(one.labels, two.labels)
                if (
                    alike
                    and _fits(experiment, one, unread)
                    and reads_the_same(model, seen, head, twin)
                ):
                    yield MisaskedHead(head, key, unread, twin, one.line)


def _fits(experiment: Experiment, call: Call, key: str) -> bool:
    """Whether the head has a class for each of the labels that it is called by."""
    labels = experiment.tensors[key]
    return call.kind != "class" or int(labels.max()) < call.scores.shape[-1]
