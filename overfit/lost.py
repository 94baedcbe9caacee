"""Where the input gets lost on the way forward, when samples get the inputs of others."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from overfit.exchange import rolled
from probes.layout import Layout
from probes.reading.lost import Follow, Lost
from probes.reading.lost import where_lost as between
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed


def where_lost(subject: Subject, batches: Sequence[Batch], keys: Sequence[str]) -> Lost | None:
    """The last operator that reads what follows these keys and gives what does not.

    Of the first batch with several samples. None where the loss follows the input, or where too
    much runs to tell. In evaluation mode; nothing of the subject changes.
    """
    pairs = ((each, rolled(each, keys, subject.layout or Layout())) for each in batches)
    batch, other = next((pair for pair in pairs if pair[1] is not None), (None, None))
    return None if batch is None or other is None else lost_between(subject, batch, other)


def lost_between(subject: Subject, batch: Batch, other: Batch) -> Lost | None:
    """The same of two batches, the second with other inputs."""

    def run(fed: Batch, follow: Follow) -> None:
        with undisturbed(subject.model), torch.no_grad(), follow:
            subject.loss(subject.model, fed)

    return between(subject.model, run, batch, other)
