"""IDX005: a view where a transpose was meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

from probes.alive import Alive, alive, site_of
from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.indexing import Reshaped

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ViewForTranspose:
    """`view` or `reshape` moves the axis of samples or tokens, and so mixes what stands along it.

    A view may join axes and split them, and each number keeps its place in the row of all. Where
    an axis is to stand behind or before others than it did, numbers of several samples or tokens
    come to share a place; only `transpose` or `permute` moves an axis. Axes are told by their
    lengths, which must be those of samples or tokens, and of no other axis there.

    Sick: `heads.reshape(n, t, 2 * d)` of (n, 2, t, d); `hidden.view(n, -1)` of (2, n, d).
    Healthy: `heads.transpose(1, 2).reshape(n, t, 2 * d)`.
    """

    least: int = 3  # length of an axis that can be told by it

    code: ClassVar[str] = "IDX005"
    rule: ClassVar[str] = "view-for-transpose"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss, and samples."""
        if LOSS not in experiment.evaluated.ran.outputs:
            return "the loss could not be had: `Subject.loss` raises"
        if experiment.size < self.least:
            return f"the batch cannot be cut into {self.least} samples or more"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a line of code."""
        seen, said = alive(experiment), set()
        names = dict.fromkeys(_tokens(experiment), "token") | {experiment.size: "sample"}
        for view in seen.views:
            out = tuple(view.out.shape)
            moved = [
                size for size in names if size >= self.least and _moves(view.before, out, size)
            ]
            if moved and view.line not in said and _reaches(seen, view):
                said.add(view.line)
                yield self._finding(experiment, seen, view, names[moved[0]], moved[0])

    def _finding(
        self, experiment: Experiment, seen: Alive, view: Reshaped, name: str, size: int
    ) -> Finding:
        out = tuple(view.out.shape)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{view.op}` of {view.before} to {out} at "
            f"{view.line or 'a line that is not of the subject'} moves the {name} axis of {size} "
            f"without a transpose: what stands at one {name} there is a mixture of several.",
            fix="Move the axis by `transpose` or `permute` first, then join or split.",
            site=site_of(experiment, seen, view.order),
            op=f"aten.{view.op.strip('_')}",
            phase="forward",
            source=view.line,
            evidence=(
                Evidence(f"numbers before the {name} axis", _before(out, size), None),
                Evidence("as it stood", _before(view.before, size)),
            ),
        )


def _tokens(experiment: Experiment) -> set[int]:
    """The lengths of the second axis of keys by sample."""
    return {
        tensor.shape[1]
        for tensor in experiment.tensors.values()
        if tensor.ndim > 1 and len(tensor) == experiment.size
    }


def _before(shape: Shape, size: int) -> int:
    """How many rows there are before the axis of this length."""
    return prod(shape[: shape.index(size)])


def _moves(before: Shape, after: Shape, size: int) -> bool:
    """Whether the one axis of this length stands elsewhere; relative shifts, T by T + 1, do not."""
    if before.count(size) != 1 or after.count(size) != 1:
        return False
    at = before.index(size)
    if before[at : at + 2] == (size, size + 1) and after[at : at + 2] == (size + 1, size):
        return False
    return _before(before, size) != _before(after, size)


def _reaches(seen: Alive, view: Reshaped) -> bool:
    grad = seen.of_loss([view.out])[0] if view.out.requires_grad else None
    return grad is not None and bool(grad.any())
