"""Other content at hidden positions, while what tells from it that they are is as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from probes.execution import Ran
from probes.experiment import Experiment
from probes.masking.hidden import Hidden
from probes.subject import Batch

TRUTHS = {"aten::nonzero", "aten::count_nonzero", "aten::sign"}  # beside all that give booleans


def is_marked(experiment: Experiment, each: Hidden) -> bool:
    """Whether the key alone says what is hidden: one value stands there, and nowhere else."""
    tensor = experiment.tensors[each.key]
    hidden, visible = tensor[~each.keep], tensor[each.keep]
    if not len(hidden) or not bool((hidden == hidden[0]).all()):
        return False
    same = visible == hidden[0]
    return not bool((same.flatten(1).all(1) if same.ndim > 1 else same).any())


def as_marked(
    experiment: Experiment, batch: Batch, under: Sequence[AbstractContextManager[Any]] = ()
) -> Ran:
    """The evaluation of a batch with other content, in which all comparisons come out as before.

    A mask that the model takes from its ids (`ids.eq(0)`) hides what it hid, while vectors that
    are looked up there, and numbers that stand there, are others. Raises ExperimentError where the
    subject raises.
    """
    return experiment.evaluate(batch, (*under, _Comparisons(_compared(experiment))))


def truths(experiment: Experiment) -> list[Tensor]:
    """What the subject's code makes of numbers in comparisons, in order.

    Raises ExperimentError where the subject raises.
    """
    return [truth for _, truth in _compared(experiment)]


def _compared(experiment: Experiment) -> list[tuple[str, Tensor]]:
    if "comparisons" not in experiment.memo:
        first = _Comparisons()
        experiment.evaluate(experiment.batch, (first,))
        experiment.memo["comparisons"] = first.found
    known: list[tuple[str, Tensor]] = experiment.memo["comparisons"]
    return known


class _Comparisons(TorchDispatchMode):
    """While it is entered, what makes truths of numbers gives what is known, in the same order.

    found: what they gave, by operator and shape. As soon as another operator, or another shape,
    has its turn, nothing is known any more.
    """

    def __init__(self, known: list[tuple[str, Tensor]] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.found: list[tuple[str, Tensor]] = []
        self._known = known or []
        self._lost = False

    def __enter__(self) -> Self:
        """From the first one on."""
        self.found, self._lost = [], False
        return super().__enter__()  # type: ignore[no-any-return,no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operator has run; a comparison gives what it gave before."""
        out = func(*args, **(kwargs or {}))
        if type(out) is not Tensor or not _is_truth(func._schema.name, args, out):
            return out
        place = len(self.found)
        self.found.append((func._schema.name, out.detach().clone()))
        if self._lost or place >= len(self._known):
            return out
        name, before = self._known[place]
        self._lost = name != func._schema.name or before.shape != out.shape
        return out if self._lost else before.to(out.dtype).clone()


def _is_truth(name: str, args: Any, out: Tensor) -> bool:
    if name in TRUTHS:
        return True
    given = [each for each in args if isinstance(each, Tensor)]
    return out.dtype is torch.bool and any(each.dtype is not torch.bool for each in given)
