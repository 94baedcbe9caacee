"""Whether what is hidden comes through an attention: by its share, or by rows that see nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from probes.compare import NOISES, Comparison, Look
from probes.execution import Ran
from probes.experiment import Experiment
from probes.masking.grown import is_harmless
from probes.masking.hidden import Hidden
from probes.masking.visible import Visible, changed, differ, leaks
from probes.softmaxes.attended import MaskTrace, attended, open_kernels, silenced, thrown_away
from probes.subject import Batch


def true_leaks(experiment: Experiment) -> list[tuple[Hidden, Comparison]]:
    """The leaks through masks, but for those that are no more than a share of an attention.

    Or than zeros that end a row, whatever else would do in their place.

    Raises ExperimentError where the subject raises.
    """
    if "true leaks" not in experiment.memo:
        experiment.memo["true leaks"] = [
            (each, found)
            for each, found in leaks(experiment)
            if not is_harmless(experiment, each)
            and not takes_only_its_share(
                experiment, changed(experiment, [each]), Visible(experiment, each)
            )
        ]
    known: list[tuple[Hidden, Comparison]] = experiment.memo["true leaks"]
    return known


def own_leaks(experiment: Experiment) -> list[tuple[Hidden, Comparison]]:
    """The true leaks, but for those that come of rows of attention that see nothing.

    Raises ExperimentError where the subject raises.
    """
    if "own leaks" not in experiment.memo:
        experiment.memo["own leaks"] = [
            (each, found)
            for each, found in true_leaks(experiment)
            if not comes_of_empty_rows(
                experiment, changed(experiment, [each]), Visible(experiment, each)
            )
        ]
    known: list[tuple[Hidden, Comparison]] = experiment.memo["own leaks"]
    return known


def comes_of_empty_rows(experiment: Experiment, other: Batch, look: Look) -> bool:
    """Whether what moves with the other batch moves no more once rows that see nothing give zeros.

    Such a row gives the average of all that is hidden. Raises ExperimentError where the subject
    raises.
    """
    if not any(bool(each.empty.any()) for each in attended(experiment)):
        return False
    if "silenced" not in experiment.memo:
        experiment.memo["silenced"] = silenced(experiment, experiment.batch)
    before: Ran = experiment.memo["silenced"]
    noise = NOISES * experiment.evaluated.noise
    return not differ(before, silenced(experiment, other), look, noise)


class Undiluted(MaskTrace):
    """While it is entered, values of nothing but zeros get no weight, and the rest all of it.

    In attention alone that masks its scores and throws the result away.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator has run, a product of weights and values with those weights."""
        if func._schema.name == "aten::bmm" and self._dilutes(args[0]):
            zero = (args[1] == 0).all(-1)[:, None]  # (batch, 1, key)
            left = args[0].masked_fill(zero, 0)
            whole = left.sum(-1, keepdim=True)
            args = (left / torch.where(whole > 0, whole, torch.ones_like(whole)), args[1])
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _dilutes(self, weights: Tensor) -> bool:
        known = self._carried.get(id(weights))
        return known is not None and known[1].site in self.thrown


def takes_only_its_share(
    experiment: Experiment,
    other: Batch,
    look: Look,
    aligned: Callable[[Ran, Ran], Ran] | None = None,
) -> bool:
    """Whether what moves with the other batch moves no more once zeros take no share.

    aligned: brings what the other batch gives into the shapes of the other. Raises
    ExperimentError where the subject raises.
    """
    if not thrown_away(experiment):
        return False
    before, after = (
        experiment.evaluate(batch, (open_kernels(), Undiluted(experiment.subject.model)))
        for batch in (experiment.batch, other)
    )
    if aligned is not None:
        after = aligned(after, before)
    return not differ(before, after, look, NOISES * experiment.evaluated.noise)
