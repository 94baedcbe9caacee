"""Flags of which labels are known that nobody reads, beside such flags that mask other labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment, copied, with_leaf
from probes.finding import ExperimentError
from probes.reading.changed import changed
from probes.reading.rows import looked
from probes.scoring.calls import Call, Scoring
from probes.scoring.weighed import weighed
from probes.undisturbed import undisturbed

FEWEST = 8  # places of either kind
CHANCE = 1e-5  # that labels at so many places are all the same one


@dataclass(frozen=True, slots=True)
class Known:
    """A key of two values beside labels that are all the same where it is `value`, and not else.

    filler: what the labels are there. places: at how many of the first batches.
    """

    key: str
    value: float
    labels: str
    filler: float
    places: int


@dataclass(frozen=True, slots=True)
class Unasked:
    """Labels that are scored where they are known to be filler, by flags that nobody reads.

    sister: other labels, whose flags the loss masks them by. scored, places: of filler in the
    batch. instead: the flags that these labels are masked by; None where they are by none.
    """

    known: Known
    sister: Known
    scored: int
    places: int
    instead: str | None
    source: str | None


def unasked(experiment: Experiment) -> Iterator[Unasked]:
    """One for each key of flags at most; with all samples of the batch."""
    pairs = known(experiment)
    if len({each.key for each in pairs}) < 2:
        return
    if experiment.uncut is not None:
        experiment = experiment.of_batch(experiment.uncut)
    unread = {key for key in {each.key for each in pairs} if _is_unread(experiment, key)}
    calls, labels = _calls(experiment) if unread else [], {each.labels for each in pairs}
    asked = {key: _asked(experiment, key, calls) for key in labels} if unread else {}
    seen = [_Seen.of(experiment, each, asked) for each in pairs]
    masked = [each for each in seen if each.known.key not in unread and each.is_masked]
    for each in seen:
        own, where = each.known, each.filler
        by_own = any(one.known.labels == own.labels for one in masked)
        if own.key not in unread or by_own or not bool((each.asked & where).any()):
            continue
        sisters = [one for one in masked if not one.is_same(where)]
        instead = [one for one in sisters if one.would_mask(each.asked)]
        if sisters:
            unread.remove(own.key)
            sister, by = (instead or sisters)[0].known, instead[0].known.key if instead else None
            given = [each for each in calls if _is_given(each, experiment.tensors[own.labels])]
            line = given[0].line if given else None
            yield Unasked(own, sister, int((each.asked & where).sum()), int(where.sum()), by, line)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Of the batch, over the places of the flags: where the labels are filler, and are asked for.

    asked: false throughout where that is not known.
    """

    known: Known
    filler: Tensor
    asked: Tensor

    @classmethod
    def of(cls, experiment: Experiment, known: Known, asked: Mapping[str, Tensor | None]) -> _Seen:
        filler, found = experiment.tensors[known.key] == known.value, asked.get(known.labels)
        none = torch.zeros_like(filler)
        flat = none if found is None else found.reshape(*filler.shape, -1).any(-1)
        return cls(known, filler, flat)

    @property
    def is_masked(self) -> bool:
        return self.would_mask(self.asked)

    def would_mask(self, asked: Tensor) -> bool:
        """Whether these flags say where labels are asked for: nowhere where they are filler."""
        same = asked.shape == self.filler.shape
        return same and bool(asked.any()) and not bool((asked & self.filler).any())

    def is_same(self, filler: Tensor) -> bool:
        return self.filler.shape == filler.shape and torch.equal(self.filler, filler)


def known(experiment: Experiment) -> list[Known]:
    """Such pairs of keys, over the first batches, where that is no chance; flags are no labels."""
    tensors = experiment.tensors
    flags = {k: t for k, t in tensors.items() if t.ndim and _is_real(t) and len(t.unique()) == 2}
    asked = [key for key in experiment.targets if _is_real(tensors[key])] if flags else []
    pairs = [
        (flag, key)
        for flag, tensor in flags.items()
        for key in asked
        if flag != key and tensors[key].shape[: tensor.ndim] == tensor.shape
    ]
    if not pairs:
        return []
    batches = list(looked(experiment))
    made = (_known(flags[flag], flag, key, batches) for flag, key in pairs)
    found = [each for each in made if each is not None]
    masks = {each.key for each in found}
    return [each for each in found if each.labels not in masks]


def _known(own: Tensor, flag: str, key: str, batches: list[dict[str, Tensor]]) -> Known | None:
    parts = [
        (each[flag].flatten(), each[key].reshape(each[flag].numel(), -1))
        for each in batches
        if flag in each and key in each and each[key].shape[: own.ndim] == each[flag].shape
    ]
    if not parts:
        return None
    flags, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    for value in own.unique().tolist():
        filler, real = labels[flags == value], labels[flags != value]
        if min(len(filler), len(real)) < FEWEST or not bool((filler == filler[0, 0]).all()):
            continue
        alike = (int((real == filler[0, 0]).all(1).sum()) + 1) / (len(real) + 1)
        if alike ** len(filler) < CHANCE and len(real.unique(dim=0)) > 1:
            return Known(flag, float(value), key, float(filler[0, 0]), len(filler))
    return None


def _is_real(tensor: Tensor) -> bool:
    return not tensor.is_complex() and not bool(tensor.isnan().any())


def _is_unread(experiment: Experiment, key: str) -> bool:
    """Whether neither the loss nor an output moves with other values of the key."""
    batch = changed(experiment, key)
    if batch is None:
        return False
    try:
        return not experiment.evaluated.against(experiment.evaluate(batch)).outputs
    except ExperimentError:
        return False


def _asked(experiment: Experiment, key: str, calls: Sequence[Call]) -> Tensor | None:
    """(place...) where the loss asks for these labels as they are; None where that is not known.

    By the places that torch's own losses count, else by the gradient of numbers. With other labels
    there, what is left out by its own value would be asked for.
    """
    labels = experiment.tensors[key]
    own = [call.counted.view(labels.shape) for call in calls if _is_given(call, labels)]
    if own:
        return torch.stack(own).any(0)
    return _slope(experiment, key) if labels.is_floating_point() else None


def _is_given(call: Call, labels: Tensor) -> bool:
    if not call.labels.numel() == call.counted.numel() == labels.numel():
        return False
    return torch.equal(call.labels.flatten().to(labels), labels.flatten())


def _calls(experiment: Experiment) -> list[Call]:
    """Torch's losses in the subject's own, without the places that are masked."""
    mode, subject = Scoring(), experiment.subject
    try:
        with undisturbed(subject.model), torch.no_grad(), mode:
            subject.loss(subject.model, copied(experiment.batch))
    except Exception:  # a loss of the user's own making may not stand it
        return []
    return weighed(subject, copied(experiment.batch), mode.calls)


def _slope(experiment: Experiment, key: str) -> Tensor | None:
    """Where the loss has a gradient by the labels; None where that cannot be had."""
    labels = experiment.tensors[key].detach().clone().requires_grad_()
    batch, subject = with_leaf(copied(experiment.batch), key, labels), experiment.subject
    try:
        with undisturbed(subject.model), torch.enable_grad():
            slope = torch.autograd.grad(subject.loss(subject.model, batch), labels)[0]
    except Exception:  # such as labels that are compared and not subtracted
        return None
    found: Tensor = slope != 0
    return found
