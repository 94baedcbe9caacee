"""IDX009: different places that are given one and the same class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.reading.alive import Alive, alive
from probes.reading.rows import looked

ROWS = 5  # pairs from which the stride can be told


@dataclass(frozen=True, slots=True)
class _Strided:
    """Classes that are `stride` times one column of a key of pairs, and the other column."""

    key: str
    inner: int
    stride: int
    classes: int
    line: str | None


@dataclass(frozen=True, slots=True)
class SharedClass:
    """A pair of whole numbers is made into one class by a stride that is too small.

    What the loss takes for the class, or picks by, is one column of a key of pairs, times a whole
    number, and the other column: the place in a grid that is laid out flat. Where the other column
    goes further than the stride, two places share a class, though there are classes for all. All
    batches are looked at.

    Sick: `y * rows + x` of `heat.flatten(2)`, whose rows are `columns` long.
    Healthy: `y * columns + x`.
    """

    code: ClassVar[str] = "IDX009"
    rule: ClassVar[str] = "shared-class"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A key of pairs of whole numbers, of which classes are made."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        if not any(True for _ in _all(experiment)):
            return "no class is made of a key of pairs of whole numbers"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        for each in _all(experiment):
            held = [batch[each.key] for batch in looked(experiment) if each.key in batch]
            most = torch.stack([t.flatten(0, -2).amax(0) for t in held]).amax(0).tolist()
            inner, outer = (int(most[at]) + 1 for at in (each.inner, 1 - each.inner))
            if inner > each.stride and inner * outer <= each.classes:
                yield self._finding(each, inner, outer)
                return

    def _finding(self, each: _Strided, inner: int, outer: int) -> Finding:
        one, two = [0, 0], [0, 0]
        one[each.inner], two[1 - each.inner] = each.stride, 1
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"places share a class: of `{each.key}` the loss makes {each.stride} times "
            f"column {1 - each.inner} and column {each.inner}, which goes up to {inner - 1}, so "
            f"that {one} and {two} are both class {each.stride}, though {each.classes} classes "
            f"have room for all {inner * outer}.",
            fix="Multiply by how long the axis is that the other column goes along.",
            site="<loss>",
            phase="forward",
            source=each.line,
            evidence=(Evidence("stride of the classes", each.stride, inner),),
        )


def _all(experiment: Experiment) -> Iterator[_Strided]:
    seen = alive(experiment)
    for key, pairs in experiment.tensors.items():
        plain = not pairs.is_floating_point() and pairs.dtype is not torch.bool
        if not plain or pairs.ndim < 2 or pairs.shape[-1] != 2 or pairs.numel() < 2 * ROWS:
            continue
        flat = pairs.flatten(0, -2)
        for wanted, classes, line in _asked(seen):
            found = _stride(flat, wanted.flatten()) if wanted.numel() == len(flat) else None
            if found is not None:
                yield _Strided(key, *found, classes, line)


def _asked(seen: Alive) -> Iterator[tuple[Tensor, int, str | None]]:
    """Whole numbers that are taken for classes, out of how many, and where."""
    for call in seen.classed:
        yield call.labels, call.scores.shape[-1], call.line
    for pick in seen.picks:
        yield pick.index, pick.source.shape[pick.axis], pick.line


def _stride(pairs: Tensor, wanted: Tensor) -> tuple[int, int] | None:
    """Which column counts by one, and by how many the other; None where they are made otherwise."""
    own = torch.cat([pairs, torch.ones_like(pairs[:, :1])], 1).double().cpu()
    given = wanted.double().cpu()
    if any(len(column.unique()) < 3 for column in pairs.T):
        return None
    solved = torch.linalg.lstsq(own, given[:, None], driver="gelsd").solution[:, 0].round()
    if not torch.equal(own @ solved, given):
        return None
    one, two = int(solved[0]), int(solved[1])
    if one == 1 and two > 1:
        return 0, two
    return (1, one) if two == 1 and one > 1 else None
