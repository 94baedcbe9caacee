"""Whose pair a contrastive loss pulls together: which samples its rows and columns come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.batch import map_leaves
from probes.compare import FILL, scale
from probes.experiment import LOSS, Experiment
from probes.masking.trailing import trailing
from probes.raised import source_here
from probes.subject import Batch
from probes.vary import vary

SMALL = 1e-6  # of the largest score: less does not count as moved


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Scores, (row, column), of which the loss picks a column in every row."""

    scores: Tensor
    picked: Tensor
    source: str | None


@dataclass(frozen=True, slots=True)
class Strangers:
    """A row of one sample whose right column is another sample's; count: such rows of all."""

    row: int
    sample: int
    partner: int
    count: int
    source: str | None


class _Scores(TorchFunctionMode):
    """Keeps what cross entropies are given, where it is a matrix with an index a row."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Scored] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result."""
        given = dict(kwargs or {})
        if func in (F.cross_entropy, F.nll_loss):
            scores = args[0] if args else given.get("input")
            picked = args[1] if len(args) > 1 else given.get("target")
            if isinstance(scores, Tensor) and isinstance(picked, Tensor):
                self._keep(scores.detach().cpu().clone(), picked.detach().cpu().clone())
        return func(*args, **given)

    def _keep(self, scores: Tensor, picked: Tensor) -> None:
        fits = scores.ndim == 2 and picked.ndim == 1 and not picked.is_floating_point()
        self.found.append(Scored(scores if fits else scores.new_zeros(0, 0), picked, source_here()))


def strangers(experiment: Experiment) -> Strangers | None:
    """The first scores, two rows and columns a sample or more, that pair samples with others."""
    n, loss = experiment.size, experiment.evaluated.ran.outputs.get(LOSS)
    if n < 3 or loss is None:
        return None
    before = seen_scores(experiment, experiment.batch)
    wanted = [i for i, each in enumerate(before) if _fits(each, n)]
    if not wanted:
        return None
    changed = [seen_scores(experiment, other_sample(experiment, i)) for i in range(n)]
    for i in wanted:
        if all(len(each) == len(before) for each in changed):
            found = _strangers(before[i], [each[i] for each in changed], n)
            if found is not None:
                return found
    return None


def _fits(each: Scored, n: int) -> bool:
    rows, columns = each.scores.shape
    return rows == columns == len(each.picked) and rows >= 2 * n and rows % n == 0


def seen_scores(experiment: Experiment, batch: Batch) -> list[Scored]:
    """What the cross entropies are given of this batch, in their order; empty where no matrix."""
    mode = _Scores()
    experiment.evaluate(batch, under=[mode])
    return mode.found


def other_sample(experiment: Experiment, row: int, but: Iterable[str] = ()) -> Batch:
    """The batch with other values for one sample, but for masks and the keys that are left out.

    What rows of ids end in, such as padding, stays where it is: no sample gets another length.
    """
    left = {*but, *(each.key for each in experiment.layout.masks)}

    def change(path: str, leaf: Any) -> Any:
        tensor = experiment.tensors.get(path)
        if tensor is None or path in left or not tensor.ndim or len(tensor) != experiment.size:
            return leaf
        only = torch.zeros_like(tensor, dtype=torch.bool)
        only[row] = True
        runs = trailing(tensor)
        kept = torch.zeros_like(only) if runs is None else runs
        other = vary(tensor, only & ~kept, None if runs is None else tensor[~runs])
        return leaf if other is None else other

    return map_leaves(experiment.batch, change)


def _strangers(base: Scored, changed: list[Scored], n: int) -> Strangers | None:
    rows, columns = owners(base, changed, 1), owners(base, changed, 0)
    share = len(rows) // n
    if any(int((rows == i).sum()) != share for i in range(n)) or not torch.equal(rows, columns):
        return None  # it is not known whose rows they are
    partners = columns[base.picked]
    away = (partners != rows).nonzero().flatten().tolist()
    if len(away) < 0.9 * len(rows):
        return None
    first = away[0]
    return Strangers(first, int(rows[first]), int(partners[first]), len(away), base.source)


def owners(base: Scored, changed: list[Scored], axis: int) -> Tensor:
    """(row or column,) the one sample that moves all of it; -1 where there is none."""
    found = torch.full((base.scores.shape[1 - axis],), -1, device="cpu")
    for i, each in enumerate(changed):
        whole = moves(base, each).float().mean(axis) > 0.9
        found[whole] = torch.where(found[whole] < 0, i, -2)
    return found


def moves(base: Scored, other: Scored) -> Tensor:
    """(row, column) whether a score is another; what is masked counts as such."""
    finite = torch.isfinite(base.scores) & (base.scores > FILL)
    change = (other.scores - base.scores).masked_fill(~finite, 1.0).abs()
    return change > SMALL * scale(base.scores)
