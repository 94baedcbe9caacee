"""The accuracies of a subject, by head: its own metrics, or what its layout lets us count."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from overfit.from_layout import accuracy_of
from overfit.once import computed_once
from overfit.targets import read_targets
from probes.errors import RequestError
from probes.subject import Batch, Pair, Subject
from probes.undisturbed import undisturbed as undisturbed

Head = Callable[[nn.Module, Batch], Pair]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One look at a model in eval mode: hits and count of each head, and each part of the loss."""

    hits: Mapping[str, float]
    counts: Mapping[str, float]
    parts: Mapping[str, float]

    @property
    def perfect(self) -> bool:
        """Whether there was something to count, and every head had all of it right."""
        judged = [name for name, count in self.counts.items() if count > 0]
        return bool(judged) and all(self.hits[name] >= self.counts[name] for name in judged)


@dataclass(frozen=True)
class Heads:
    """Evaluates a model on fixed batches, and leaves its modes and all random states as found.

    Without metrics and without labels in the layout, what torch's own losses are handed is
    counted, where they are used.
    """

    subject: Subject
    batches: Sequence[Batch]
    accuracies: Mapping[str, Head] = field(init=False)

    @property
    def derived(self) -> bool:
        """Whether what is counted was read from the calls of torch's losses."""
        return not self.accuracies

    def __post_init__(self) -> None:
        found = dict(self.subject.metrics) or from_layout(self.subject)
        object.__setattr__(self, "accuracies", found)

    def evaluate(self, training: bool = False) -> Evaluation:
        """Every accuracy and part over all batches; parts are means over the batches.

        training: in the modes as found, instead of evaluation mode.
        """
        hits = dict.fromkeys(self.accuracies, 0.0)
        counts = dict.fromkeys(self.accuracies, 0.0)
        parts = dict.fromkeys(self.subject.parts, 0.0)
        model = self.subject.model
        with undisturbed(model, training), torch.no_grad(), computed_once(model):
            for batch in self.batches:
                for name, accuracy in self.accuracies.items():
                    hit, count = _pair(name, accuracy(model, batch))
                    hits[name] += hit
                    counts[name] += count
                for name, part in self.subject.parts.items():
                    parts[name] += float(part(model, batch)) / len(self.batches)
        if self.derived:
            hits, counts = self._called(training)
        return Evaluation(hits, counts, parts)

    def _called(self, training: bool) -> tuple[dict[str, float], dict[str, float]]:
        found = read_targets(self.subject, self.batches, training).found
        known = {each.name: each for each in found if each.right is not None}
        hits = {name: float(each.right or 0.0) for name, each in known.items()}
        return hits, {name: float(each.count) for name, each in known.items()}


def from_layout(subject: Subject) -> dict[str, Head]:
    """An accuracy for each of the layout's class labels, where the subject can predict."""
    if subject.layout is None or subject.predict is None:
        return {}
    return {
        labels.key: accuracy_of(labels, subject.layout, subject.predict)
        for labels in subject.layout.labels
        if labels.kind == "class"
    }


def _pair(name: str, found: Pair) -> tuple[float, float]:
    try:
        hits, count = (float(each) for each in found)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"`Subject.metrics[{name!r}]` returned {_short(found)}, but a pair of hits and count "
            "was expected: return `Ratio(hits, count)`."
        ) from error
    if not (math.isfinite(hits) and math.isfinite(count) and 0 <= hits <= count):
        raise RequestError(
            f"`Subject.metrics[{name!r}]` returned {hits:g} hits out of {count:g}, but two "
            "numbers with 0 <= hits <= count were expected: return sums, not means."
        )
    return hits, count


def _short(found: object) -> str:
    if isinstance(found, Tensor):
        return f"a tensor of shape {tuple(found.shape)}"
    return f"a {type(found).__name__}"
