"""What torch's own losses are handed: scores and labels, with the line that calls them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.raised import source_here

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
OF_CLASSES = (F.cross_entropy, F.nll_loss)
FEW = 1000  # calls of one step that are kept


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a loss.

    loss: the function's name. kind: labels that are classes, yes or no, numbers, or shares of
    classes that sum to 1. given: the scores as they were handed, with their graph. scores: without
    it, (place..., class) for classes and shares, else as the labels. labels: (place...). counted:
    (place...) false where the label is to be ignored. ignored: the class that stands for no label.
    smoothing: of the labels. weighted: whether classes or places weigh differently. value: what it
    returned, None where that was no scalar. line: of the user's code. by_place: whether it returned
    one number a place.
    """

    loss: str
    kind: Kind
    given: Tensor
    scores: Tensor
    labels: Tensor
    counted: Tensor
    ignored: int = -100
    smoothing: float = 0.0
    weighted: bool = False
    value: float | None = None
    line: str | None = None
    by_place: bool = False

    @property
    def axis(self) -> int:
        """That of the classes, in `given`."""
        return 0 if self.given.ndim == 1 else 1

    @property
    def rows(self) -> Tensor:
        """(place, class) of `given`, with its graph, the places in the order of `labels`."""
        return self.given.movedim(self.axis, -1).reshape(-1, self.given.shape[self.axis])

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
        if len(self.calls) < FEW:
            made = call_of(func, args, kwargs or {}, out)
            if made is not None:
                by_place = out.ndim > 0 and out.shape == made.counted.shape
                self.calls.append(replace(made, by_place=by_place))
        return out


def call_of(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Call | None:
    """The call of a loss; None of another function, and where labels and scores do not fit."""
    name = LOSSES.get(func)
    if name is None:
        return None
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    about = {
        "given": given["input"],
        "smoothing": float(given.get("label_smoothing") or 0.0),
        "weighted": given.get("weight") is not None or given.get("pos_weight") is not None,
        "value": float(out.detach()) if isinstance(out, Tensor) and out.ndim == 0 else None,
        "line": source_here(),
    }
    scores, labels = given["input"].detach(), given["target"].detach()
    if func in OF_CLASSES:
        return _of_classes(name, scores, labels, int(given["ignore_index"]), about)
    return _of_numbers(name, scores, labels, about)


def _of_numbers(name: str, scores: Tensor, labels: Tensor, about: dict[str, Any]) -> Call | None:
    if scores.shape != labels.shape or not labels.numel():
        return None
    kind: Kind = "value"
    if name.startswith("binary"):
        kind = "binary" if bool(((labels == 0) | (labels == 1)).all()) else "shares"
    if kind == "shares":
        scores, labels = torch.stack([-scores, scores], -1), torch.stack([1 - labels, labels], -1)
    shape = labels.shape[:-1] if kind == "shares" else labels.shape
    counted = torch.ones(shape, dtype=torch.bool, device=labels.device)
    return Call(name, kind, scores=scores, labels=labels, counted=counted, **about)


def _of_classes(
    name: str, scores: Tensor, labels: Tensor, ignored: int, about: dict[str, Any]
) -> Call | None:
    if scores.ndim > 1:
        scores = scores.movedim(1, -1)  # (place, class, ...) -> (place, ..., class)
    if labels.is_floating_point():
        labels = labels.movedim(1, -1) if labels.ndim > 1 else labels
        counted = torch.ones(labels.shape[:-1], dtype=torch.bool, device=labels.device)
        return Call(name, "shares", scores=scores, labels=labels, counted=counted, **about)
    if scores.shape[:-1] != labels.shape:
        return None
    return Call(
        name,
        "class",
        scores=scores,
        labels=labels,
        counted=labels != ignored,
        ignored=ignored,
        **about,
    )
