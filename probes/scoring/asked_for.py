"""Whether a loss function is asked for just what a key of the batch holds."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.compare import gap
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.layout import Labels
from probes.scoring.answers import SMALL, scores
from probes.scoring.scored import scored
from probes.subject import Batch
from probes.vary import vary

MORE = ("cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div")
LOSSES = frozenset(
    function
    for name, function in vars(F).items()
    if inspect.isfunction(function) and (name.endswith("_loss") or name in MORE)
)


def is_asked_for(experiment: Experiment, key: str) -> bool:
    """Whether the key is declared a label, scored as one, or all that a loss's target is made of.

    What a target is computed from among others, such as the flag of where an episode ends, is none.
    """
    if any(each.key == key for each in experiment.declared.labels):
        return True
    if any(each.labels_key == key for each in scored(experiment)):
        return True
    before = _targets(experiment, experiment.batch)
    made = _moved(experiment, key, before)
    for other in experiment.tensors:
        if made and other != key:
            made -= _moved(experiment, other, before)
    return bool(made)


def is_turned_down(experiment: Experiment, key: str) -> bool:
    """Whether, of some sample, the loss wants less of the class that the key names.

    So it is of an action whose value, or whose probability, is held against what came of it; a
    label is asked for in every sample.
    """
    try:
        grad = scores(experiment, Labels(key, "output")).grad
    except ExperimentError:
        return False
    named = experiment.tensors[key].reshape(grad.shape[:-1]).long()
    if bool(((named < 0) | (named >= grad.shape[-1])).any()):
        return False
    own = grad.gather(-1, named[..., None])
    return bool((own > SMALL * grad.abs().max()).any())


def _moved(experiment: Experiment, key: str, before: list[Tensor]) -> set[int]:
    """Which targets are others with other values of the key."""
    tensor = experiment.tensors[key]
    other = vary(tensor, torch.ones_like(tensor, dtype=torch.bool))
    if other is None and not tensor.is_floating_point():  # one class alone is there
        other = (tensor == 0).to(tensor.dtype)
    if other is None:
        return set()
    try:
        after = _targets(experiment, with_leaf(experiment.batch, key, other))
    except ExperimentError:
        return set()
    pairs = list(zip(before, after, strict=False))
    return {i for i, (a, b) in enumerate(pairs) if a.shape != b.shape or gap(a, b)[0] > 0}


def _targets(experiment: Experiment, batch: Batch) -> list[Tensor]:
    seen = _Targets()
    experiment.evaluate(batch, (seen,))
    return seen.found


class _Targets(TorchFunctionMode):
    """Keeps what each call of a loss function is asked for, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have."""
        kwargs = kwargs or {}
        if func in LOSSES:
            target = inspect.signature(func).bind(*args, **kwargs).arguments.get("target")
            if isinstance(target, Tensor):
                self.found.append(target.detach().clone())
        return func(*args, **kwargs)
