"""What torch's own losses are handed while a subject's loss runs: scores and the labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Kind = Literal["class", "binary", "value", "shares"]

LOSSES: Mapping[Callable[..., Any], str] = {
    F.cross_entropy: "cross_entropy",
    F.nll_loss: "nll_loss",
    F.binary_cross_entropy: "binary_cross_entropy",
    F.binary_cross_entropy_with_logits: "binary_cross_entropy_with_logits",
    F.mse_loss: "mse_loss",
    F.l1_loss: "l1_loss",
    F.smooth_l1_loss: "smooth_l1_loss",
    F.huber_loss: "huber_loss",
}
FEW = 1000  # calls of one step that are kept


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a loss.

    loss: the function's name. kind: labels that are classes, yes or no, numbers, or shares of
    classes that sum to 1. scores: (place..., class) for classes and shares, else as the labels.
    labels: (place...). counted: (place...) false where the label is to be ignored.
    smoothing: of the labels. weighted: whether classes or places weigh differently.
    value: what it returned, None where that was no scalar. by_place: whether it returned one
    number a place.
    """

    loss: str
    kind: Kind
    scores: Tensor
    labels: Tensor
    counted: Tensor
    smoothing: float = 0.0
    weighted: bool = False
    value: float | None = None
    by_place: bool = False

    @property
    def right(self) -> Tensor | None:
        """(place...) whether the likeliest answer is the label; None of numbers and shares."""
        if self.kind == "class":
            return (self.scores.argmax(-1) == self.labels) & self.counted
        if self.kind == "binary":
            least = 0.0 if self.loss.endswith("logits") else 0.5
            return ((self.scores > least) == (self.labels > 0.5)) & self.counted
        return None


class Scoring(TorchFunctionMode):
    """While it is entered, the calls of torch's losses are kept in `calls`, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function has run; a loss is kept."""
        out = func(*args, **(kwargs or {}))
        name = LOSSES.get(func)
        if name is not None and len(self.calls) < FEW:
            bound = inspect.signature(func).bind(*args, **(kwargs or {}))
            bound.apply_defaults()
            made = _call(name, bound.arguments, out)
            if made is not None:
                by_place = out.ndim > 0 and out.shape == made.counted.shape
                self.calls.append(replace(made, by_place=by_place))
        return out


def _call(name: str, given: Mapping[str, Any], out: Any) -> Call | None:
    scores, labels = given["input"].detach(), given["target"].detach()
    value = float(out.detach()) if isinstance(out, Tensor) and out.ndim == 0 else None
    weighted = given.get("weight") is not None or given.get("pos_weight") is not None
    if name in ("cross_entropy", "nll_loss"):
        return _of_classes(name, given, scores, labels, weighted, value)
    if scores.shape != labels.shape or not labels.numel():
        return None
    kind: Kind = "value"
    if name.startswith("binary"):
        kind = "binary" if bool(((labels == 0) | (labels == 1)).all()) else "shares"
        if kind == "shares":
            scores, labels = _two(scores), torch.stack([1 - labels, labels], -1)
    counted = torch.ones(labels.shape if kind != "shares" else labels.shape[:-1]).bool()
    return Call(name, kind, scores, labels, counted.to(labels.device), 0.0, weighted, value)


def _two(scores: Tensor) -> Tensor:
    return torch.stack([-scores, scores], -1)


def _of_classes(
    name: str,
    given: Mapping[str, Any],
    scores: Tensor,
    labels: Tensor,
    weighted: bool,
    value: float | None,
) -> Call | None:
    if scores.ndim > 1:
        scores = scores.movedim(1, -1)  # (place, class, ...) -> (place, ..., class)
    smoothing = float(given.get("label_smoothing") or 0.0)
    if labels.is_floating_point():
        labels = labels.movedim(1, -1) if labels.ndim > 1 else labels
        counted = torch.ones(labels.shape[:-1], dtype=torch.bool, device=labels.device)
        kind: Kind = "shares"
    else:
        if scores.shape[:-1] != labels.shape:
            return None
        counted, kind = labels != given.get("ignore_index", -100), "class"
    return Call(name, kind, scores, labels, counted, smoothing, weighted, value)
