"""A model trained blind: in every step its inputs are shuffled anew among the samples."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from overfit.exchange import exchanged, input_keys
from overfit.targets import read_targets
from probes.batch import sample_count
from probes.errors import RequestError
from probes.layout import Layout
from probes.subject import Batch, Subject


class CannotBlindError(Exception):
    """The inputs cannot be told from the targets, or there is nothing to shuffle them among."""


@dataclass(frozen=True)
class Blind:
    """Batches whose inputs can be shuffled: all keys but the targets', their prefixes and masks."""

    batches: Sequence[Batch]
    keys: tuple[str, ...]
    layout: Layout

    @classmethod
    def of(cls, subject: Subject, batches: Sequence[Batch]) -> Blind:
        """Of a subject's batches. Raises CannotBlindError."""
        layout = subject.layout or Layout()
        targets = read_targets(subject, batches)
        if targets.why is not None:
            raise CannotBlindError(targets.why)
        keys = input_keys(batches[0], targets.found, layout)
        if not keys:
            raise CannotBlindError("the batch holds nothing but the targets and their prefixes")
        try:
            counts = [sample_count(each, layout) or 1 for each in batches]
        except RequestError as error:
            raise CannotBlindError(str(error)) from error
        if max(counts) < 2:
            raise CannotBlindError("every batch holds one sample, so nothing can be shuffled")
        return cls(batches, keys, layout)

    def shuffled(self, number: int, step: int) -> Batch:
        """The batch of this number as the step sees it, the same for the same step."""
        count = sample_count(self.batches[number], self.layout) or 1
        order = random.Random(step).sample(range(count), count)
        return exchanged(self.batches[number], self.keys, order, self.layout)
