"""Keys that the loss scores by, where nothing else tells which of them hold labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from overfit.exchange import levelled
from probes.execution import named
from probes.layout import Layout
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

MOVES = 1e-4  # of the loss
CLOSE = 1e-6  # of the largest number of an output


def scored_keys(subject: Subject, batch: Batch, keys: Sequence[str]) -> frozenset[str]:
    """Those that move the loss and nothing that is predicted, when all samples have the first's.

    None where nothing is predicted, or where no key is left then.
    """
    if subject.predict is None:
        return frozenset()
    layout, loss = subject.layout or Layout(), _loss(subject, batch)
    given, found = _predicted(subject, batch), set()
    for key in keys:
        other = levelled(batch, [key], layout)
        if other is None or abs(_loss(subject, other) - loss) <= MOVES * abs(loss):
            continue
        if _are_close(given, _predicted(subject, other)):
            found.add(key)
    return frozenset(found) if len(found) < len(keys) else frozenset()


def _loss(subject: Subject, batch: Batch) -> float:
    with undisturbed(subject.model), torch.no_grad():
        return float(subject.loss(subject.model, batch))


def _predicted(subject: Subject, batch: Batch) -> Mapping[str, Tensor]:
    assert subject.predict is not None
    with undisturbed(subject.model), torch.no_grad():
        return dict(named(subject.predict(subject.model, batch)))


def _are_close(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        each.shape == two[name].shape
        and bool(
            ((each.double() - two[name].double()).abs() <= CLOSE * each.double().abs().max()).all()
        )
        for name, each in one.items()
        if each.numel()
    )
