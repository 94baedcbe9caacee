"""Classes that a loss asks for and whose scores a mask has filled: by what it is handed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.reading.alive import Alive, alive, gradients
from probes.scoring.calls import Call

NATS = 20.0  # a constant so far below the best score is no class of reference
MASKED = 5e3  # so far below it no score of a model lies, but one that a mask was added to
ALIKE = 0.01  # of how far they are: scores that one mask was added to lie as near each other


@dataclass(frozen=True, slots=True)
class HiddenGold:
    """One call of a loss, and the golds in it that are masked away.

    classes: what is asked for there. count: of how many places that are scored, `of`. score: the
    best of their scores. gap: how far the best of their rows are above, at least. constant: no
    weight moves any of their scores.
    """

    op: str
    line: str | None
    classes: tuple[int, ...]
    count: int
    of: int
    score: float
    gap: float
    constant: bool


def hidden_golds(experiment: Experiment) -> Iterator[HiddenGold]:
    """One a call of torch's losses of classes; none where the loss raises."""
    try:
        seen = alive(experiment)
    except ExperimentError:
        return
    for call in seen.classed:
        if call.given.requires_grad and call.rows.shape[-1] > 1:
            found = _of(experiment, seen, call)
            if found is not None:
                yield found


def _of(experiment: Experiment, seen: Alive, call: Call) -> HiddenGold | None:
    rows, wanted = call.rows, call.labels.flatten()
    inside = (wanted >= 0) & (wanted < rows.shape[-1]) & (wanted != call.ignored)
    at = wanted.clamp(0, rows.shape[-1] - 1).long()[:, None]
    gold = rows.gather(-1, at)[:, 0]
    scores = gold.detach().double()
    gap = rows.detach().double().amax(-1) - scores
    far = inside & (gap >= NATS)
    if not bool(far.any()):
        return None
    counted = inside & _weighed(seen, call)
    far &= counted
    if int(far.sum()) < 2:
        return None
    constant = _is_constant(experiment, gold[far])
    if not constant and not _is_masked(scores[far], gap[far]):
        return None
    return HiddenGold(
        op=call.loss,
        line=call.line,
        classes=tuple(wanted[far].unique().tolist()),
        count=int(far.sum()),
        of=int(counted.sum()),
        score=float(scores[far].max()),
        gap=float(gap[far].min()),
        constant=constant,
    )


def _weighed(seen: Alive, call: Call) -> Tensor:
    """(place,) whether the loss moves with the scores there; a mask or a weight may hide it."""
    (grad,) = seen.of_loss([call.given])
    if grad is None:
        return torch.zeros(call.labels.numel(), dtype=torch.bool, device=call.given.device)
    of_rows = grad.movedim(call.axis, -1).reshape(-1, grad.shape[call.axis])
    return (of_rows != 0).any(-1)


def _is_constant(experiment: Experiment, gold: Tensor) -> bool:
    """Whether all are one number, and no weight that learns moves any."""
    weights = [p for p in experiment.subject.model.parameters() if p.requires_grad]
    if not bool((gold == gold[0]).all()) or not weights:
        return False
    ways = torch.linspace(0.5, 1.5, len(gold), device=gold.device).to(gold.dtype)
    grads = gradients((gold.nan_to_num(0, 0, 0) * ways).sum(), weights)
    return not any(grad is not None and bool(grad.any()) for grad in grads)


def _is_masked(scores: Tensor, gap: Tensor) -> bool:
    """Whether all lie where only a mask that was added puts them."""
    spread = float(scores.max() - scores.min()) if bool(scores.isfinite().all()) else torch.nan
    least = float(gap.min())
    return least >= MASKED and spread <= ALIKE * least
