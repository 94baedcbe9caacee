"""How well the token so many places on tells a label, over all that was looked at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

REACH = 2  # places either way
MOST = 20_000  # labels that are looked at
KINDS = 64  # classes of labels
PRIOR = 0.1  # of a label where the token says nothing
NEARLY = 0.9  # of the samples
SPREAD = 0.95  # of the labels at an id: more of one class is one class


@dataclass(frozen=True)
class Told:
    """Labels by place, and ids by the same places, over many samples.

    labels, ids: (sample, place). valid: (sample, place) of the labels that count.
    """

    labels: Tensor
    ids: Tensor
    valid: Tensor

    def hits(self, by: int) -> Tensor:
        """(sample, place) 1 where the id so many places on tells the label, as others have it.

        What is told is the label that most other places with that id have. 0 where none counts.
        """
        width = self.ids.shape[1]
        low, high = max(0, -by), min(width, width - by)
        look = self.valid[:, low:high]
        kinds = self.labels[:, low:high][look].unique(return_inverse=True)[1]
        words = self.ids[:, low + by : high + by][look].unique(return_inverse=True)[1]
        found = torch.zeros(self.labels.shape, device="cpu")
        if not len(kinds):
            return found
        count = int(kinds.max()) + 1
        table = torch.zeros(int(words.max()) + 1, count, device="cpu")
        table.index_put_((words, kinds), torch.ones(len(kinds), device="cpu"), accumulate=True)
        rest = table[words]
        rest[torch.arange(len(kinds), device="cpu"), kinds] -= 1  # but for its own place
        rest += PRIOR * table.sum(0) / len(kinds)
        found[:, low:high][look] = (rest.argmax(1) == kinds).float()
        return found

    @property
    def odd(self) -> Tensor:
        """(sample, place) labels of several classes at an id that nearly every sample has one at.

        Such as that of a sequence's start, or of the padding just after its end.
        """
        found = torch.zeros_like(self.valid)
        for word in self.ids[:4].unique().tolist():
            there = self.ids == word
            labelled, present = there & self.valid, there.any(1)
            once = float((labelled.sum(1) == 1)[present].float().mean())
            counts = self.labels[labelled].unique(return_counts=True)[1]
            spread = len(counts) > 1 and float(counts.max()) < SPREAD * float(counts.sum())
            if spread and once >= NEARLY and float(present.float().mean()) >= 0.5:
                found |= labelled
        return found


def told(batches: list[tuple[Tensor, Tensor]], ignored: int | None) -> Told | None:
    """Of pairs of labels and ids; None where they differ in width, or hold too many classes."""
    if len({pair[0].shape[1] for pair in batches}) != 1:
        width = max(pair[0].shape[1] for pair in batches)
        batches = [(_wide(a, width, -1), _wide(b, width, -1)) for a, b in batches]
    labels = torch.cat([pair[0] for pair in batches]).cpu().long()
    ids = torch.cat([pair[1] for pair in batches]).cpu().long()
    rows = max(1, MOST // labels.shape[1])
    labels, ids = labels[:rows], ids[:rows]
    valid = labels >= 0 if ignored is None else (labels >= 0) & (labels != ignored)
    kinds = labels[valid].unique()
    return Told(labels, ids, valid) if 2 <= len(kinds) <= KINDS else None


def _wide(values: Tensor, width: int, fill: int) -> Tensor:
    return torch.nn.functional.pad(values.long(), (0, width - values.shape[1]), value=fill)
