"""Whose input meets whose label in the loss: found by changing one of each, and both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from probes.batch import map_leaves
from probes.compare import gap
from probes.experiment import LOSS, Experiment, attempted, copied
from probes.finding import ExperimentError
from probes.masking.owners import Owners
from probes.replay import Snapshot, replay
from probes.scoring.targets import targets, varied
from probes.seeding import seed_everything
from probes.stepping.aim import minimised
from probes.subject import Batch
from probes.vary import vary

ROUNDING = 3e-6  # of the loss: what sums of float32 may differ by
SMALL = 0.02  # of the largest meeting


@dataclass(frozen=True)
class Meetings:
    """The mixed effect on the loss of changing a sample's input and other samples' labels.

    A loss that is a sum over samples has none where an input is scored against none of these
    labels. own: (sample,) with the label in the same place, NaN where it was not asked for.
    others: (sample,) with all others'. limit: up to which it is rounding.
    """

    own: Tensor
    others: Tensor
    limit: float

    @property
    def mixed(self) -> bool:
        """Whether any input is scored against another sample's label."""
        return bool((self.others > max(self.limit, SMALL * self._largest)).any())

    @property
    def _largest(self) -> float:
        return max(float(self.own.nan_to_num().max()), float(self.others.max()))

    @property
    def apart(self) -> list[int]:
        """The samples whose input is scored against other labels, and not against its own."""
        least = max(self.limit, SMALL * self._largest)
        away = (self.own <= self.limit) & (self.others > least)
        return [int(i) for i in away.nonzero().flatten()]


class Meeting:
    """Measures them: the loss, from one and the same state.

    drawn: as a training step has it, from this seed, and not in evaluation mode. owned: says which
    rows of a batch that cannot be cut are of which sample. Raises ExperimentError where no label or
    no input can be changed, or where the loss raises.
    """

    def __init__(
        self, experiment: Experiment, drawn: int | None = None, owned: Owners | None = None
    ) -> None:
        self.experiment = experiment
        self.size = experiment.size if owned is None else owned.size
        self._drawn, self.owned = drawn, owned
        self._rows = () if owned is None else tuple(owned.keys)
        self.labels = self._labels()
        self.inputs = self._inputs()
        self._snapshot = Snapshot.take(experiment.subject.model, parameters=True)
        self.base = self.loss()

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The keys that hold what the outputs should be."""
        if self.owned is None:
            return self.experiment.targets
        return tuple(targets(self.experiment, self.size, len(self.owned.of)))

    def _by_sample(self, key: str, tensor: Tensor) -> bool:
        return tensor.ndim > 0 and (len(tensor) == self.size or key in self._rows)

    def _labels(self) -> dict[str, Tensor]:
        """Other labels, by key."""
        everywhere = {
            key: varied(tensor, torch.ones_like(tensor, dtype=torch.bool))
            for key, tensor in self.experiment.tensors.items()
            if key in self.targets and self._by_sample(key, tensor)
        }
        found = {key: tensor for key, tensor in everywhere.items() if tensor is not None}
        if not found:
            raise ExperimentError("no key of labels is known that holds more than one value")
        return found

    def _inputs(self) -> dict[str, Tensor]:
        """Other inputs, by key: what is no label, no mask and no index, where it is visible."""
        experiment = self.experiment
        left = {*self.targets, *(mask.key for mask in experiment.layout.masks)}
        left |= {key for each in experiment.layout.reads for key in each.keys}
        inner = {key: experiment.tensors[key] for key in self._rows}  # samples' own rows first
        for key, tensor in (inner | experiment.tensors).items():
            if key in left or not self._by_sample(key, tensor):
                continue
            seen = torch.ones_like(tensor, dtype=torch.bool)
            for mask in experiment.masks:
                if mask.key == key:
                    keep = mask.keep
                    seen &= keep.reshape([*keep.shape, *[1] * (tensor.ndim - keep.ndim)])
            other = vary(tensor, seen, tensor[seen])
            if other is not None and tensor.dtype is not torch.bool and self._moves(key, other):
                return {key: other}
        raise ExperimentError("no input was found that moves an output when it is changed")

    def _moves(self, key: str, other: Tensor) -> bool:
        experiment = self.experiment
        batch = map_leaves(experiment.batch, lambda path, leaf: other if path == key else leaf)
        try:
            ran = experiment.evaluate(batch).outputs
        except ExperimentError:
            return False
        names = [n for n in experiment.outputs if n in ran] or [LOSS]
        before = experiment.evaluated.ran.outputs
        limit = 10 * experiment.evaluated.noise
        return any(n in before and gap(before[n], ran[n])[0] > limit for n in names)

    def loss(self, inputs: Iterable[int] = (), labels: Iterable[int] = ()) -> float:
        """With other inputs for these samples and other labels for those."""
        subject, batch = self.experiment.subject, self.batch(inputs, labels)
        if self._drawn is not None and subject.train_step is not None:
            return minimised(subject, batch, self._drawn)
        model, found = subject.model, []

        def step() -> Tensor:
            if self._drawn is None:
                model.eval()
            else:
                seed_everything(self._drawn)
            with attempted("`Subject.loss`, with inputs and labels exchanged,"), torch.no_grad():
                value = subject.loss(model, copied(batch))
            found.append(float(value.detach()))
            return value.detach()

        replay(step, model, self._snapshot)
        return found[0]

    def batch(self, inputs: Iterable[int] = (), labels: Iterable[int] = ()) -> Batch:
        """The batch with other inputs for these samples and other labels for those."""
        changes = [(self.inputs, list(inputs)), (self.labels, list(labels))]

        def change(path: str, leaf: object) -> object:
            for others, rows in changes:
                if path in others and rows and isinstance(leaf, Tensor):
                    own = self._own(path, rows, leaf)
                    leaf = leaf.clone()
                    leaf[own] = others[path][own]
            return leaf

        return map_leaves(self.experiment.batch, change)

    def _own(self, path: str, samples: list[int], leaf: Tensor) -> Tensor:
        """What is these samples' own, of the first axis of a key."""
        own = torch.tensor(samples, device=leaf.device)
        if self.owned is None or path not in self._rows:
            return own
        return torch.isin(self.owned.of, own.to(self.owned.of)).to(leaf.device)

    def of(self, inputs: Iterable[int], labels: Iterable[int]) -> float:
        """The mixed effect of both: what is left of it when each alone is taken away."""
        rows, wanted = list(inputs), list(labels)
        both, one, two = self.loss(rows, wanted), self.loss(rows), self.loss((), wanted)
        return abs(both - one - two + self.base)

    def all(self) -> Meetings:
        """For every sample all others' labels; its own label's, where it meets others'."""
        n = self.size
        own = torch.full((n,), float("nan"), dtype=torch.float64, device="cpu")
        others, sizes = torch.zeros(n, dtype=torch.float64, device="cpu"), [abs(self.base)]
        for i in range(n):
            rest = [k for k in range(n) if k != i]
            parts = self.loss([i], rest), self.loss([i]), self.loss((), rest)
            sizes += map(abs, parts)
            others[i] = abs(parts[0] - parts[1] - parts[2] + self.base)
        limit = max(ROUNDING * max(sizes), 10 * self.experiment.evaluated.noise)
        for i in (others > limit).nonzero().flatten().tolist():
            own[i] = self.of([i], [i])
        return Meetings(own, others, limit)


def meetings(experiment: Experiment) -> tuple[Meeting, Meetings]:
    """All meetings of the experiment's batch, measured once."""
    if "meetings" not in experiment.memo:
        meeting = Meeting(experiment)
        experiment.memo["meetings"] = meeting, meeting.all()
    found: tuple[Meeting, Meetings] = experiment.memo["meetings"]
    return found
