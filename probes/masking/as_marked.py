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
PASSED_OVER = {  # by operator: the argument of ids, and that of the id that it leaves out itself
    "aten::nll_loss_forward": (1, 4),
    "aten::nll_loss2d_forward": (1, 4),
    "aten::_embedding_bag": (1, 8),
    "aten::_embedding_bag_forward_only": (1, 8),
}


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
    are looked up there, and numbers that stand there, are others. Ids that an operator leaves out
    by itself, as a cross entropy does with its `ignore_index`, are left out as well. Raises
    ExperimentError where the subject raises.
    """
    return experiment.evaluate(batch, (*under, _Comparisons(_compared(experiment))))


def truths(experiment: Experiment) -> list[Tensor]:
    """What the subject's code makes of numbers in comparisons, in order.

    Raises ExperimentError where the subject raises.
    """
    return [truth for name, truth in _compared(experiment) if name not in PASSED_OVER]


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
        name = func._schema.name
        if name in PASSED_OVER:
            args = self._passing_over(name, args)
        out = func(*args, **(kwargs or {}))
        if type(out) is not Tensor or not _is_truth(name, args, out):
            return out
        before = self._before(name, out)
        return out if before is None else before.to(out.dtype).clone()

    def _before(self, name: str, truth: Tensor) -> Tensor | None:
        """What this comparison gave before; None where nothing is known."""
        place = len(self.found)
        self.found.append((name, truth.detach().clone()))
        if self._lost or place >= len(self._known):
            return None
        known, before = self._known[place]
        self._lost = known != name or before.shape != truth.shape
        return None if self._lost else before

    def _passing_over(self, name: str, args: Any) -> Any:
        """The arguments, with the id that is left out wherever it stood before."""
        ids, left_out = (args[at] if at < len(args) else None for at in PASSED_OVER[name])
        if not isinstance(ids, Tensor) or left_out is None:
            return args
        before = self._before(name, ids == left_out)
        if before is None:
            return args
        at = PASSED_OVER[name][0]
        return (*args[:at], ids.masked_fill(before, left_out), *args[at + 1 :])


def _is_truth(name: str, args: Any, out: Tensor) -> bool:
    if name in TRUTHS:
        return True
    given = [each for each in args if isinstance(each, Tensor)]
    return out.dtype is torch.bool and any(each.dtype is not torch.bool for each in given)
