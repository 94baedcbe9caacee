"""IDX005: a view where a transpose was meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import torch
from torch import nn

from probes.ancestry import nodes_behind
from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.modules import every_module
from probes.reading.alive import Alive, alive, site_of
from probes.reading.indexing import Reshaped
from probes.reading.label_views import is_of_labels, parts_classes
from probes.reading.refined import cuts_places, is_torn, pieces
from probes.reading.rows import is_read

Shape = tuple[int, ...]
CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
MOVES = ("PermuteBackward", "TransposeBackward", "TBackward")


@dataclass(frozen=True, slots=True)
class ViewForTranspose:
    """`view` or `reshape` moves the axis of samples or tokens, and so mixes what stands along it.

    A view may join axes and split them, and each number keeps its place in the row of all. Where
    an axis is to stand behind or before others than it did, numbers of several samples or tokens
    come to share a place; only `transpose` or `permute` moves an axis. Axes are told by their
    lengths, which must be those of samples or tokens, and of no other axis there. Whatever the
    axes are, three forms mix them: axes exchange their lengths, or an axis after is cut across the
    borders of those before; an axis is cut in two whose parts join others on both sides; the last
    axis is cut out of the width of a convolution's output, whose channels join the rest. Labels are
    looked at as well, where they are made one-hot above all, whose classes stand last. That
    scores against relative positions are shifted by such a view, there and back or by one padded
    column, is known.

    Sick: `heads.reshape(n, t, 2 * d)` of (n, 2, t, d); `hidden.view(n, -1)` of (2, n, d);
    `convolution(images).view(n, -1, classes)`; `F.one_hot(labels, classes).view(scores.shape)`.
    Healthy: `heads.transpose(1, 2).reshape(n, t, 2 * d)`.
    """

    least: int = 3  # length of an axis that can be told by it

    code: ClassVar[str] = "IDX005"
    rule: ClassVar[str] = "view-for-transpose"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss, and samples."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
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
            words = None if moved else _mixed(experiment, seen, view)
            if view.line in said or not (moved or words) or _is_relative_shift(seen, view):
                continue
            if _reaches(experiment, seen, view):
                said.add(view.line)
                yield (
                    self._finding(experiment, seen, view, names[moved[0]], moved[0])
                    if words is None
                    else self._mixture(experiment, seen, view, words)
                )

    def _mixture(self, experiment: Experiment, seen: Alive, view: Reshaped, words: str) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{view.op}` of {view.before} to {tuple(view.out.shape)} at "
            f"{view.line or 'a line that is not of the subject'} {words}: what stands at one place "
            "there is a mixture of several.",
            fix="Split axes alone, bring them into order by `permute`, then join them.",
            site=site_of(experiment, seen, view.order),
            op=f"aten.{view.op.strip('_')}",
            phase="forward",
            source=view.line,
            evidence=(Evidence("numbers that were laid out anew", view.out.numel()),),
        )

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


def _mixed(experiment: Experiment, seen: Alive, view: Reshaped) -> str | None:
    """How a change of shape mixes axes, in words; None where it does not."""
    before, out = view.before, tuple(view.out.shape)
    if before[0] % experiment.size and before[1:2] != (experiment.size,):
        return None  # of a parameter
    if sorted(before) == sorted(out):
        long = [n for n in before if n > 1]
        return "exchanges axes" if long != [n for n in out if n > 1] else None
    if parts_classes(view):
        return "takes a one-hot's last axis, that of its classes, apart"
    if pieces(before, out) is None:
        return "cuts across the borders of axes"
    if is_torn(before, out, experiment.size):
        return "cuts an axis in two and joins its parts with others on both sides"
    if _is_convolved(experiment, seen, view) and cuts_places(before, out):
        return "cuts its last axis out of the width, though it is the second that holds channels"
    return None


def _is_relative_shift(seen: Alive, view: Reshaped) -> bool:
    """Whether two neighbouring axes change places, padded by one, or there and back but shorter.

    Scores against relative positions have more axes than these two.
    """
    pair = _exchanged(view.before, tuple(view.out.shape))
    if pair is None or len(view.before) < 3:
        return False
    one, two = pair
    others = [_exchanged(each.before, tuple(each.out.shape)) for each in seen.views]
    forth = any(other is not None and other[0] == two and other[1] > one for other in others)
    back = any(other is not None and other[1] == one and other[0] < two for other in others)
    return abs(one - two) == 1 or _has_zeros(view, one, two) or forth or back


def _exchanged(before: Shape, out: Shape) -> tuple[int, int] | None:
    """The lengths of the two neighbouring axes that changed places, and nothing else did."""
    if len(before) != len(out):
        return None
    at = [i for i, (one, two) in enumerate(zip(before, out, strict=True)) if one != two]
    if len(at) != 2 or at[1] != at[0] + 1 or before[at[0]] != out[at[1]]:
        return None
    return before[at[0]], before[at[1]]


def _has_zeros(view: Reshaped, one: int, two: int) -> bool:
    """Whether the first of the second axis's entries are zeros that were put before it."""
    at = view.before.index(one) if view.before.count(one) == 1 else view.before.index(two) - 1
    first = view.out.detach().reshape(view.before).select(at + 1, 0)
    return not bool(first.any())


def _is_convolved(experiment: Experiment, seen: Alive, view: Reshaped) -> bool:
    """Whether what was given another shape is what a convolution has just given, axes in place.

    Axes are as long as they were also where they were moved in between and are equally long.
    """
    earlier = [each for each in seen.shown if each.order < view.order]
    if not earlier or tuple(earlier[-1].tensor.shape) != view.before:
        return False
    modules = dict(every_module(experiment.subject.model))
    last = [each for each in earlier if each.tensor is earlier[-1].tensor]
    if not any(isinstance(modules.get(each.module), CONVOLUTIONS) for each in last):
        return False
    before = set(nodes_behind(earlier[-1].tensor))
    since = (type(node).__name__ for node in nodes_behind(view.out) if node not in before)
    return not any(name.startswith(MOVES) for name in since)


def _reaches(experiment: Experiment, seen: Alive, view: Reshaped) -> bool:
    """Whether the loss depends on it; of what has no gradient, as a key that is read, or labels."""
    if not view.out.requires_grad:
        own = view.out.flatten()
        return is_of_labels(experiment, seen, view) or any(
            tensor.is_floating_point()
            and tensor.numel() == own.numel()
            and torch.equal(tensor.flatten(), own.to(tensor.dtype))
            and is_read(experiment, key)
            for key, tensor in experiment.tensors.items()
        )
    grad = seen.of_loss([view.out])[0]
    return grad is not None and bool(grad.any())
