"""Under which name the model is given what: a key that nobody reads, and another in its place."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from probes.bus import Bus, Kind, See
from probes.experiment import Experiment, attempted, copied
from probes.finding import ExperimentError
from probes.raised import source_here
from probes.replay import Snapshot, replay


@dataclass(frozen=True, slots=True)
class Handed:
    """The key that the model was given under another's name, and the user's line."""

    key: str
    source: str | None


@dataclass(slots=True)
class _Given:
    """Keeps what each call of the model was given, by the names of its parameters."""

    parameters: inspect.Signature
    calls: list[tuple[Mapping[str, Any], str | None]] = field(default_factory=list)
    sees: Mapping[Kind, See] = field(default_factory=lambda: {Kind.OUTPUT: _blind})

    def before(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], listening: bool) -> None:
        bound = self.parameters.bind(*args, **kwargs).arguments
        self.calls.append((dict(bound), source_here()))

    def after(self, output: Any) -> None:
        """What it gave is not kept."""


def _blind(_: int, __: Tensor) -> None:
    """Sees nothing."""


def handed_instead(experiment: Experiment, key: str) -> Handed | None:
    """Where every call of the model is given another key under the name of this one.

    The other one has a parameter of its own, so that the two are not the same thing by two names.
    Labels are left out: a language model's are its inputs.
    """
    name, own = _last(key), experiment.tensors[key]
    parameters = inspect.signature(experiment.subject.model.forward)
    if key in {each.key for each in experiment.layout.labels} or name not in parameters.parameters:
        return None
    others = {
        other: tensor
        for other, tensor in experiment.tensors.items()
        if _last(other) in parameters.parameters and other != key and not _same(tensor, own)
    }
    calls = _calls(experiment, parameters) if others else []
    found = [_key(given.get(name), others) for given, _ in calls]
    if not found or found[0] is None or len(set(found)) > 1:
        return None
    return Handed(found[0], calls[0][1])


def _calls(
    experiment: Experiment, parameters: inspect.Signature
) -> list[tuple[Mapping[str, Any], str | None]]:
    subject, given = experiment.subject, _Given(parameters)

    def step() -> Tensor:
        with attempted("`Subject.loss`"):
            subject.loss(subject.model, copied(experiment.batch))
        return torch.zeros(())

    try:
        with Bus(subject.model, [given], given):
            replay(step, subject.model, Snapshot.take(subject.model))
    except ExperimentError:
        return []
    return given.calls


def _key(value: Any, others: Mapping[str, Tensor]) -> str | None:
    if not isinstance(value, Tensor):
        return None
    return next((key for key, tensor in others.items() if _same(value, tensor)), None)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _last(key: str) -> str:
    return key.rpartition(".")[2]
