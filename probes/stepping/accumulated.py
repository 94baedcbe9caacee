"""What several backward passes hand to one optimizer step, beside the whole batch's gradient."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from probes.batch import map_leaves
from probes.bus import Bus, Kind, See
from probes.finding import ExperimentError
from probes.raised import said
from probes.replay import Snapshot, replay
from probes.stepping.one_step import keep_strangers, made, until_stepped
from probes.stepping.roots import noted_roots, noted_starts
from probes.subject import Batch, Subject


@dataclass(frozen=True, slots=True)
class Accumulated:
    """seen: the gradients that the optimizer saw, by parameter. whole: those of `Subject.loss`.

    left: those that the last backward pass before left, not clipped nor divided by hand.
    first: those that the first backward pass left.
    passes: how many backward passes of single numbers ran before the optimizer's step.
    calls: calls of the step until then. rows: of what each pass gave a module first, the length of
    the first axis.
    """

    seen: Mapping[str, Tensor | None]
    whole: Mapping[str, Tensor | None]
    left: Mapping[str, Tensor | None]
    first: Mapping[str, Tensor | None]
    passes: int
    calls: int
    rows: tuple[int, ...]


@dataclass(slots=True)
class _Rows:
    """Notes the first axis of the first tensor that a module is given, each time it waits."""

    rows: list[int] = field(default_factory=list)
    waits: bool = True

    @property
    def sees(self) -> Mapping[Kind, See]:
        return {Kind.INPUT: self.given}

    def given(self, _: int, tensor: Tensor) -> None:
        if self.waits and tensor.ndim:
            self.rows.append(len(tensor))
            self.waits = False


def accumulated(subject: Subject, batch: Batch) -> Accumulated:
    """One optimizer step of the subject's own, and its loss, each without dropout, and undone.

    Raises ExperimentError where either raises.
    """
    model, roots, calls, rows = subject.model, list[Tensor](), list[int](), _Rows()
    seen: dict[str, Tensor | None] = {}
    left: dict[str, Tensor | None] = {}
    first: dict[str, Tensor | None] = {}

    def keep() -> None:
        grads = ((name, p.grad) for name, p in model.named_parameters())
        left.update({n: None if g is None else g.detach().clone() for n, g in grads})
        rows.waits = True
        if len(roots) == 1 and not first:
            first.update(left)

    def step() -> Tensor:
        without_dropout(model)
        with noted_roots(roots.append), noted_starts(_nothing, keep):
            found, _, count = until_stepped(made(subject), model, batch)
        seen.update(found)
        calls.append(count)
        return torch.zeros(())

    with Bus(model, [rows], whole=True), ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    whole = loss_gradient(subject, batch)[1]
    return Accumulated(seen, whole, left, first, len(roots), calls[0], tuple(rows.rows))


def loss_gradient(subject: Subject, batch: Batch) -> tuple[float, Mapping[str, Tensor | None]]:
    """`Subject.loss` and its gradients, in the model's own mode without dropout; undone.

    Raises ExperimentError where it raises.
    """
    model = subject.model

    def loss() -> Tensor:
        without_dropout(model)
        fresh = map_leaves(batch, lambda _, leaf: leaf.clone() if _is_tensor(leaf) else leaf)
        try:
            value = subject.loss(model, fresh)
            if value.requires_grad:
                value.backward()
        except Exception as error:
            raise ExperimentError(f"`Subject.loss` raised {said(error)}") from error
        return value

    done = replay(loss, model, Snapshot.take(model, parameters=True))
    return float(done.loss), done.grads


def _nothing(*_: object) -> None:
    """Is to be known of where a pass starts."""


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, Tensor)


def without_dropout(model: nn.Module) -> None:
    """For the rest of a replay, which gives attributes back."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
